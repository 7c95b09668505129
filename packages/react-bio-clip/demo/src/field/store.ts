/** Notes that stay in this browser: IndexedDB holds a thumbnail, the answer and what a person says of each photograph. */

import {openDB, type DBSchema, type IDBPDatabase} from 'idb';
import type {Answer} from 'react-bio-clip';

import type {Capture} from './capture.js';

/** The model that gave an answer. */
export interface Model {
  name: string;
  /** SHA-256 of bundle.json. */
  sha256: string;
  thresholds: Record<string, number | null> | null;
}

/** A person's answer to a photograph: a taxon of the list, at any rank, or null: nothing of the list. */
export interface Decision {
  path: (string | null)[] | null;
  /** ISO 8601, in UTC. */
  at: string;
}

export interface Note extends Capture {
  /** Content and name: the same photograph is kept once. */
  key: string;
  /** Milliseconds since 1970. */
  added: number;
  /** Path below the folder that was chosen, or the name of the file. */
  name: string;
  sha256: string;
  mediaType: string | null;
  thumbnail: Blob;
  answer: Answer;
  model: Model;
  /** When the model was asked: ISO 8601, in UTC. */
  asked: string;
  decision: Decision | null;
}

interface Schema extends DBSchema {
  notes: {key: string; value: Note};
}

let opened: Promise<IDBPDatabase<Schema>> | undefined;

function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= openDB<Schema>('bioclip-field', 1, {
    upgrade: (db) => void db.createObjectStore('notes', {keyPath: 'key'}),
  });
  return opened;
}

/** All notes, in the order of their keys. */
export const readNotes = async (): Promise<Note[]> => (await database()).getAll('notes');

export async function writeNotes(notes: readonly Note[]): Promise<void> {
  const {store, done} = (await database()).transaction('notes', 'readwrite');
  await Promise.all([...notes.map((note) => store.put(note)), done]);
}

export async function deleteNotes(keys: readonly string[]): Promise<void> {
  const {store, done} = (await database()).transaction('notes', 'readwrite');
  await Promise.all([...keys.map((key) => store.delete(key)), done]);
}

/** Bytes that notes take, about: pictures, and the rest as text. */
export function sizeOf(notes: readonly Note[]): number {
  return notes.reduce((sum, note) => sum + note.thumbnail.size + JSON.stringify(note).length, 0);
}
