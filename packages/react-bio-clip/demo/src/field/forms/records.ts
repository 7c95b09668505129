/** Make records of the notes, on which every export rests, as workflow/bioclip_lite/predicting/records.py does. */

import type {BundleInfo, Candidate} from 'react-bio-clip';
import {scientificName} from 'react-bio-clip';

import {common} from '../../names.js';
import type {Capture} from '../capture.js';
import type {ListedTaxon} from '../taxa.js';
import type {Model, Note} from '../store.js';

export const RANKS = ['kingdom', 'phylum', 'class', 'order', 'family', 'genus', 'species'];

/** Below this probability a photograph probably shows nothing of the list (metrics/off_list.py). */
export const PROBABLY = 0.5;
/** Least probability of the best taxon at the end of `best` (metrics/site.py). */
const LEAST = 0.5;

export interface Taxon {
  rank: string;
  /** Names at 7 ranks, null below `rank`. */
  path: (string | null)[];
  name: string;
  commonName: string | null;
}

export interface Answer extends Taxon {
  score: number;
  /** The least score that was asked for; null for a model without thresholds. */
  threshold: number | null;
  zeroShot: boolean;
  note: string;
}

export interface Origin extends Model {
  /** When the model was asked. */
  began: string;
}

export interface Record extends Capture {
  file: string;
  sha256: string;
  mediaType: string | null;
  answer: Answer | null;
  /** Null where that was not fitted. */
  onList: number | null;
  /** Names from the kingdom down, to the lowest rank with a taxon of half the probability, and their probabilities. */
  best: (string | null)[];
  bestScores: number[];
  origin: Origin;
  /** Number of the observation, from 1. */
  observation: number;
  /** A person's answer: a taxon, or null for nothing of the list; undefined: nobody has looked at it. */
  confirmed?: {taxon: Taxon | null; label: string; at: string; by: string};
}

/** The word for nothing of the list, as `recalibrate` reads it. */
const NOTHING = 'none';

/**
 * Records of the notes, observation by observation.
 *
 * @param taxa all of the list, by which names are told apart
 * @param person who confirms
 */
export function recordsOf(
  groups: readonly (readonly Note[])[],
  {ranks, languages}: BundleInfo,
  taxa: readonly ListedTaxon[],
  person: string,
): Record[] {
  const language = languages.includes('en') ? 'en' : (languages[0] ?? 'en');
  return groups.flatMap((group, i) => group.map((note) => recordOf(note, i + 1, ranks, taxa, language, person)));
}

function recordOf(
  note: Note,
  observation: number,
  ranks: string[],
  taxa: readonly ListedTaxon[],
  language: string,
  person: string,
): Record {
  const {answer, model, decision} = note;
  const named = answer.answer ?? (model.thresholds ? null : answer.taxa[0]);
  const scores = ranks.map((rank) => answer.ranks[rank]?.probability ?? 0);
  const lowest = scores.findLastIndex((score) => score >= LEAST);
  return {
    file: note.name,
    sha256: note.sha256,
    mediaType: note.mediaType,
    time: note.time,
    offset: note.offset,
    latitude: note.latitude,
    longitude: note.longitude,
    answer: named && answerOf(named, model, language),
    onList: answer.onList ?? null,
    best: lowest < 0 ? [] : answer.ranks[ranks[lowest]].path,
    bestScores: scores.slice(0, lowest + 1).map((score) => (score >= LEAST ? score : 0)),
    origin: {...model, began: note.asked},
    observation,
    ...(decision && {
      confirmed: {
        taxon: decision.path && taxonOf(decision.path, taxa, language),
        label: decision.path ? labelOf(decision.path, taxa) : NOTHING,
        at: decision.at,
        by: person,
      },
    }),
  };
}

const padded = (path: readonly (string | null)[]) => RANKS.map((_, rank) => path[rank] ?? null);

function answerOf(answer: Candidate, {thresholds}: Model, language: string): Answer {
  const finest = answer.isFinest && `not told apart below the ${answer.rank}`;
  return {
    rank: answer.rank,
    path: padded(answer.path),
    name: answer.name,
    commonName: answer.rank === 'species' ? common(answer, language) : null,
    score: answer.probability,
    threshold: thresholds?.[answer.rank] ?? null,
    zeroShot: answer.zeroShot,
    note: [finest, answer.note].filter(Boolean).join(': '),
  };
}

const isPath = (path: readonly (string | null)[]) => {
  const key = JSON.stringify(path);
  return (taxon: ListedTaxon) => JSON.stringify(taxon.path) === key;
};

/** A taxon of the list; one of an earlier list of which no more than the path is known. */
function taxonOf(path: (string | null)[], taxa: readonly ListedTaxon[], language: string): Taxon {
  const rank = RANKS[path.length - 1];
  const listed = taxa.find(isPath(path));
  const commonName = rank === 'species' && listed ? common(listed, language) : null;
  return {rank, path: padded(path), name: scientificName(path), commonName};
}

/** "Morus alba", or its whole path where another taxon has the same name. */
function labelOf(path: (string | null)[], taxa: readonly ListedTaxon[]): string {
  const name = scientificName(path);
  if (taxa.filter((taxon) => taxon.name === name).length < 2) return name;
  return [...path.slice(0, -1).filter(Boolean), name].join(' > ');
}

export const named = ({name, sha256}: Model) => `${name} (SHA-256 ${sha256})`;

/** When a photograph was taken, with the offset of its clock where that is known. */
export const taken = ({time, offset}: Capture) => time && `${time}${offset ?? ''}`;
