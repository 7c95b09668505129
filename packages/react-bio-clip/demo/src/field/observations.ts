/** Group photographs into observations by time and place. */

import type {Note} from './store.js';

/** Photographs of one observation are no farther apart, each from the one before it. */
const MINUTES = 10;
const METRES = 100;

/** Observations in the order of time; photographs without a time come last, each an observation of its own. */
export function observations<N extends Pick<Note, 'time' | 'latitude' | 'longitude' | 'added' | 'name'>>(
  notes: readonly N[],
): N[][] {
  const order = (note: N) => note.time ?? '~'; // after all digits
  const sorted = [...notes].sort((a, b) => compare(order(a), order(b)) || a.added - b.added || compare(a.name, b.name));
  const groups: N[][] = [];
  for (const note of sorted) {
    const group = groups.at(-1);
    if (group && belongs(note, group.at(-1)!)) group.push(note);
    else groups.push([note]);
  }
  return groups;
}

const compare = (a: string, b: string) => (a < b ? -1 : Number(a > b));

type Where = Pick<Note, 'time' | 'latitude' | 'longitude'>;

function belongs(one: Where, before: Where): boolean {
  if (one.time === null || before.time === null) return false;
  if (Date.parse(`${one.time}Z`) - Date.parse(`${before.time}Z`) > MINUTES * 60_000) return false;
  const metres = distance(one, before);
  return metres === null || metres <= METRES; // time alone decides where a place is missing
}

/** Metres on a sphere, by the haversine formula. */
function distance(one: Where, other: Where): number | null {
  if (one.latitude === null || other.latitude === null) return null;
  const radians = (degrees: number) => (degrees * Math.PI) / 180;
  const [from, to] = [radians(one.latitude), radians(other.latitude)];
  const east = Math.sin(radians(one.longitude! - other.longitude!) / 2) ** 2;
  const half = Math.sin((from - to) / 2) ** 2 + Math.cos(from) * Math.cos(to) * east;
  return 2 * 6_371_000 * Math.asin(Math.sqrt(half));
}
