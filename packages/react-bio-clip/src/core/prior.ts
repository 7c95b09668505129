/** Place and month: how likely each taxon is met there. workflow/bioclip_lite/web/prior.py has the theory and the format. */

import {BioClipError} from './errors.js';
import type {BundleInfo, ClassifyOptions, Place, PriorInfo} from './types.js';

const PSEUDO = 10; // occurrences
const KNOWN = 10; // occurrences of a taxon from which it can be told that a place or month is none of its own
const ABOUT = [-1, 0, 1];

export interface Prior {
  info: PriorInfo;
  /** By number of the cell: taxa that occur there and how often, in turn. */
  cells: Map<number, number[]>;
  /** Occurrences of each taxon. */
  everywhere: Float64Array;
  /** 12 for each taxon. */
  months: Float64Array;
}

/** Hold what a prior says of a place and a month. */
export interface Expectation {
  /** A share for each taxon; the sum is one. */
  share: Float64Array;
  /** 1 for taxa that the table has, but not around the place or not around the month. */
  unexpected: Uint8Array;
}

/** Read the file of a prior; undefined for a bundle without one. */
export function readPrior({prior: info, taxa}: BundleInfo, bytes: Uint8Array | undefined): Prior | undefined {
  if (!info) return undefined;
  let at = 12 * taxa.length;
  const byte = () => {
    const found = bytes?.[at++];
    if (found === undefined) throw new BioClipError('bundle', `${info.file} is not complete`, info.file);
    return found;
  };
  const number = () => {
    let [value, factor, next] = [0, 1, byte()];
    for (; next > 127; next = byte(), factor *= 128) value += (next & 127) * factor;
    return value + next * factor;
  };
  const cells = new Map<number, number[]>();
  const everywhere = new Float64Array(taxa.length);
  const months = Float64Array.from({length: 12 * taxa.length}, (_, i) => countOf(bytes?.[i] ?? 0));
  for (let taxon = 0; taxon < taxa.length; taxon++) {
    for (let left = number(), cell = 0; left > 0; left--) {
      cell += number();
      const count = countOf(byte());
      const there = cells.get(cell) ?? [];
      there.push(taxon, count);
      cells.set(cell, there);
      everywhere[taxon]! += count;
    }
  }
  return {info, cells, everywhere, months};
}

/** The number that a level stands for: 0 to 3, then four to each power of two. */
function countOf(level: number): number {
  return level < 4 ? level : (4 + (level % 4)) * 2 ** (Math.floor(level / 4) - 1);
}

/** Look up the place and date of `options`; undefined where one is not given, or the table knows nothing. */
export function expect(
  prior: Prior | undefined,
  {place, date}: Pick<ClassifyOptions, 'place' | 'date'>,
): Expectation | undefined {
  if (!prior?.info.weight || !place || date === undefined) return undefined;
  const {info, everywhere, months} = prior;
  const here = aroundPlace(prior, place);
  const month = monthOf(date);
  const before = (month + 11) % 12;
  const after = (month + 1) % 12;
  const now = everywhere.map(
    (_, i) => 2 * months[12 * i + month]! + months[12 * i + before]! + months[12 * i + after]!,
  );
  const always = everywhere.map((_, i) => sum(months.subarray(12 * i, 12 * i + 12)));
  if (!sum(here) || !sum(now)) return undefined;
  const ofPlace = ratios(here, 16, everywhere);
  const ofMonth = ratios(now, 4, always);
  const product = ofPlace.map((value, i) => value * ofMonth[i]!);
  const total = sum(product);
  const shares = product.map((value) => value / total);
  const most = shares.reduce((a, b) => Math.max(a, b));
  const raised = shares.map((value) => ((1 - info.floor) * value) / most + info.floor);
  const all = sum(raised);
  return {
    share: raised.map((value) => value / all),
    unexpected: Uint8Array.from(everywhere, (count, i) => Number(count >= KNOWN && (here[i] === 0 || now[i] === 0))),
  };
}

/** Occurrences of each taxon in the cell of a place, times 4, and in those around it, times 2 or 1. */
function aroundPlace({info, cells, everywhere}: Prior, {latitude, longitude}: Place): Float64Array {
  const [rows, columns] = [Math.round(180 / info.cell), Math.round(360 / info.cell)];
  const row = Math.min(Math.trunc((latitude + 90) / info.cell), rows - 1);
  const column = Math.trunc((longitude + 180) / info.cell) % columns;
  const here = new Float64Array(everywhere.length);
  for (const down of ABOUT) {
    if (row + down < 0 || row + down >= rows) continue;
    for (const right of ABOUT) {
      const found = cells.get((row + down) * columns + ((column + right + columns) % columns)) ?? [];
      const weight = (2 - Math.abs(down)) * (2 - Math.abs(right));
      for (let i = 0; i < found.length; i += 2) here[found[i]!]! += weight * found[i + 1]!;
    }
  }
  return here;
}

/** Likelihood given each taxon, divided by that given any. */
function ratios(weighted: Float64Array, weights: number, totals: Float64Array): Float64Array {
  const here = weighted.map((value) => value / weights);
  const base = sum(here) / sum(totals);
  return here.map((value, i) => (value + PSEUDO * base) / (totals[i]! + PSEUDO) / base);
}

function sum(values: Float64Array): number {
  return values.reduce((all, value) => all + value, 0);
}

/** The month of a date, 0 to 11. A text is of the camera's clock: its month is the one that is written. */
function monthOf(date: Date | string): number {
  return typeof date === 'string' ? Number(date.slice(5, 7)) - 1 : date.getMonth();
}

/** Throw a BioClipError for a place or date that is none. */
export function checkWhere({place, date}: Pick<ClassifyOptions, 'place' | 'date'>): void {
  const {latitude, longitude} = place ?? {latitude: 0, longitude: 0};
  if (!(Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180)) {
    throw new BioClipError('argument', `place is ${latitude}, ${longitude}, not a latitude and longitude in degrees`);
  }
  const isDate = typeof date === 'string' ? /^\d{4}-(0[1-9]|1[0-2])/.test(date) : !Number.isNaN(date?.getTime() ?? 0);
  if (!isDate) throw new BioClipError('argument', `date is ${date}, not a Date or a text such as 2026-05-01`);
}
