/** The notes of the page and the photographs that wait for an answer. */

import type {BioClip} from 'react-bio-clip';
import {useCallback, useEffect, useRef, useState} from 'react';

import {version} from '../../../package.json';
import {read} from './read.js';
import {deleteNotes, readNotes, writeNotes, type Decision, type Note} from './store.js';

/** Candidates that are kept of each answer. */
const TOP = 10;

/** A row of photographs that were added together, or while others still waited. */
export interface Batch {
  total: number;
  /** Taken from the row: added, known before, or unreadable. */
  done: number;
  known: number;
  added: number;
}

export interface Notes {
  notes: readonly Note[];
  /** The row that is worked on, or was last; undefined before the first. */
  batch: Batch | undefined;
  /** Names of files that are no photographs. */
  unread: readonly string[];
  /** Why answers stopped: the rest of the row waits. */
  failure: string | null;
  /** Why this browser keeps nothing. */
  unkept: string | null;
  add: (files: readonly File[]) => void;
  /** Forget the photographs that still wait. */
  stop: () => void;
  dismiss: () => void;
  decide: (keys: readonly string[], path: Decision['path'] | undefined) => void;
  remove: (keys: readonly string[]) => void;
}

const NONE: Batch = {total: 0, done: 0, known: 0, added: 0};

const nameOf = (file: File) => file.webkitRelativePath || file.name;

const keyOf = (file: File, {sha256}: Pick<Note, 'sha256'>) => `${sha256} ${nameOf(file)}`;

export function useNotes(clip: BioClip | null): Notes {
  const [notes, setNotes] = useState<readonly Note[]>([]);
  const [batch, setBatch] = useState<Batch | undefined>();
  const [unread, setUnread] = useState<readonly string[]>([]);
  const [failure, setFailure] = useState<string | null>(null);
  const [unkept, setUnkept] = useState<string | null>(null);
  const waiting = useRef<File[]>([]);
  const known = useRef<Promise<Set<string>> | null>(null);
  const [kicks, setKicks] = useState(0);

  const keep = useCallback((work: Promise<void>) => {
    work.catch((error: Error) => setUnkept(error.message));
  }, []);

  useEffect(() => {
    known.current ??= readNotes().then(
      (found) => {
        setNotes((before) => [...found, ...before]);
        return new Set(found.map(({key}) => key));
      },
      (error: Error) => {
        setUnkept(error.message);
        return new Set();
      },
    );
  }, []);

  const add = useCallback((files: readonly File[]) => {
    if (!waiting.current.length) setBatch(NONE);
    waiting.current.push(...files);
    setBatch((before = NONE) => ({...before, total: before.total + files.length}));
    setFailure(null);
    setKicks((before) => before + 1);
  }, []);

  // biome-ignore lint/correctness/useExhaustiveDependencies: a kick starts what waits
  useEffect(() => {
    if (!clip) return undefined;
    let isGone = false;
    const took = (what: 'added' | 'known' | 'unread') => {
      waiting.current.shift();
      setBatch((before = NONE) => ({
        ...before,
        done: before.done + 1,
        added: before.added + Number(what === 'added'),
        known: before.known + Number(what === 'known'),
      }));
    };
    const work = async () => {
      while (!isGone && waiting.current.length) {
        const [file] = waiting.current;
        const reading = await read(file, clip.info.preprocess.size).catch(() => null);
        if (isGone || waiting.current[0] !== file) {
          reading?.bitmap.close(); // stopped meanwhile
          continue;
        }
        if (!reading) {
          setUnread((before) => [...before, nameOf(file)]);
          took('unread');
          continue;
        }
        const {bitmap, ...about} = reading;
        const keys = (await known.current) ?? new Set();
        if (keys.has(keyOf(file, about))) {
          bitmap.close();
          took('known');
          continue;
        }
        const answer = await clip.classify(bitmap, {topK: TOP}).finally(() => bitmap.close());
        if (isGone || waiting.current[0] !== file) continue;
        const note = noteOf(file, about, answer, clip);
        keys.add(note.key);
        setNotes((before) => [...before, note]);
        keep(writeNotes([note]));
        took('added');
      }
    };
    work().catch((error: Error) => !isGone && setFailure(error.message));
    return () => {
      isGone = true;
    };
  }, [clip, kicks]);

  const stop = useCallback(() => {
    waiting.current = [];
    setBatch((before) => before && {...before, total: before.done});
  }, []);
  const dismiss = useCallback(() => setUnread([]), []);

  const decide = useCallback(
    (keys: readonly string[], path: Decision['path'] | undefined) => {
      const chosen = new Set(keys);
      const decision = path === undefined ? null : {path, at: now()};
      const changed = (all: readonly Note[]) => all.map((note) => (chosen.has(note.key) ? {...note, decision} : note));
      setNotes(changed);
      keep(writeNotes(changed(notes).filter(({key}) => chosen.has(key))));
    },
    [notes, keep],
  );

  const remove = useCallback(
    (keys: readonly string[]) => {
      const gone = new Set(keys);
      setNotes((all) => all.filter(({key}) => !gone.has(key)));
      void known.current?.then((all) => {
        for (const key of keys) all.delete(key);
      });
      keep(deleteNotes(keys));
    },
    [keep],
  );

  return {notes, batch, unread, failure, unkept, add, stop, dismiss, decide, remove};
}

/** The present second: ISO 8601, in UTC, as Python writes it. */
export const now = () => `${new Date().toISOString().slice(0, 19)}+00:00`;

function noteOf(
  file: File,
  about: Pick<Note, 'sha256' | 'thumbnail' | 'time' | 'offset' | 'latitude' | 'longitude'>,
  answer: Note['answer'],
  {info, sha256}: BioClip,
): Note {
  return {
    ...about,
    key: keyOf(file, about),
    added: Date.now(),
    name: nameOf(file),
    mediaType: file.type || null,
    answer,
    model: {name: `react-bio-clip ${version} tfjs`, sha256, thresholds: info.thresholds?.ranks ?? null},
    asked: now(),
    decision: null,
  };
}
