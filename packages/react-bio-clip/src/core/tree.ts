/** Sum the probabilities of the taxa up the tree, and choose the answer that is certain enough. */

import {BioClipError} from './errors.js';
import {checkWhere, type Expectation} from './prior.js';
import type {Answer, BundleInfo, Candidate, ClassifyOptions, Node, Taxon} from './types.js';

/** A node of the tree: taxa `start` up to, not including, `end` lie below it. */
export interface Branch {
  rank: string;
  path: (string | null)[];
  start: number;
  end: number;
}

/**
 * What names the taxa at one rank: `of[i]` is the number of taxon i's branch, or -1. The first `own` branches are the
 * nodes of the rank in tree order; the others, of higher ranks, name taxa that are not told apart at this one.
 */
export interface Names {
  branches: Branch[];
  of: Int32Array;
  own: number;
}

/** By rank; under TAXA, what names the taxa where no rank is asked for. */
export type Tree = Map<string, Names>;

const TAXA = '';

/** Find the nodes of each rank; BioClipError if the taxa below a node are not neighbours, as the sums require. */
export function plantTree({ranks, taxa}: BundleInfo): Tree {
  const nodes = ranks.map((rank, r) => branchesAt(rank, r, taxa));
  const leaves = taxa.map(({rank, ranks: path}, i) => {
    return {rank, path: path.slice(0, ranks.indexOf(rank) + 1), start: i, end: i + 1};
  });
  const numbers = nodes.map((branches) => numbersOf(branches, taxa.length));
  /** The node that names a taxon below its `finest_rank`: the lowest one above it that may. */
  const higher = ({finest_rank}: Taxon, i: number): Branch | undefined => {
    const r = numbers.slice(0, ranks.indexOf(finest_rank!) + 1).findLastIndex((number) => number[i]! >= 0);
    return r < 0 ? undefined : nodes[r]![numbers[r]![i]!];
  };
  const namesAt = (own: Branch[], isBelow: (finest: number, taxon: Taxon) => boolean): Names => {
    const of = numbersOf(own, taxa.length);
    const place = new Map<Branch, number>();
    taxa.forEach((taxon, i) => {
      if (of[i]! < 0 || taxon.finest_rank === undefined || !isBelow(ranks.indexOf(taxon.finest_rank), taxon)) return;
      const branch = higher(taxon, i);
      if (branch && !place.has(branch)) place.set(branch, own.length + place.size);
      of[i] = branch ? place.get(branch)! : -1;
    });
    return {branches: [...own, ...place.keys()], of, own: own.length};
  };
  const tree: Tree = new Map(ranks.map((rank, r) => [rank, namesAt(nodes[r]!, (finest) => finest < r)]));
  return tree.set(
    TAXA,
    namesAt(leaves, (finest, {rank}) => finest < ranks.indexOf(rank)),
  );
}

function branchesAt(rank: string, r: number, taxa: Taxon[]): Branch[] {
  const branches: Branch[] = [];
  const seen = new Set<string>();
  let last = '';
  taxa.forEach((taxon, i) => {
    if (!taxon.ranks[r]) {
      last = '';
      return;
    }
    const path = taxon.ranks.slice(0, r + 1);
    const key = JSON.stringify(path);
    if (key === last) {
      branches[branches.length - 1]!.end = i + 1;
      return;
    }
    if (seen.has(key)) {
      throw new BioClipError(
        'bundle',
        `bundle.json: the taxa of ${rank} ${taxon.ranks[r]} are not side by side`,
        'bundle.json',
      );
    }
    seen.add(key);
    last = key;
    branches.push({rank, path, start: i, end: i + 1});
  });
  return branches;
}

/** The number of each taxon's branch; -1 where it has none. */
function numbersOf(branches: Branch[], taxa: number): Int32Array {
  const numbers = new Int32Array(taxa).fill(-1);
  branches.forEach(({start, end}, number) => {
    numbers.fill(number, start, end);
  });
  return numbers;
}

/** Sum the probabilities of the taxa that each branch names; -1 where all below it have another name. */
function sums({branches, of}: Names, probabilities: Float64Array): Float64Array {
  const found = new Float64Array(branches.length).fill(-1);
  of.forEach((number, i) => {
    if (number >= 0) found[number] = Math.max(found[number]!, 0) + probabilities[i]!;
  });
  return found;
}

/** Positions of the k largest values in descending order; the first of equal values wins. */
export function largest(values: Float64Array, k: number): number[] {
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (found.length === k && values[i]! <= values[found[k - 1]!]!) continue;
    let place = found.length;
    while (place > 0 && values[found[place - 1]!]! < values[i]!) place--;
    found.splice(place, 0, i);
    if (found.length > k) found.pop();
  }
  return found;
}

/** "Genus epithet" for a species, else the lowest name of the path. */
export function scientificName(path: (string | null)[]): string {
  if (path[6] && path[5]) return `${path[5]} ${path[6]}`;
  return path.findLast((name) => name) ?? '';
}

/** Number of the lowest rank at which a taxon may be named, and has a name. */
function finestOf({finest_rank, ranks: path}: Taxon, {ranks}: BundleInfo): number {
  const finest = finest_rank === undefined ? ranks.length - 1 : ranks.indexOf(finest_rank);
  return path.slice(0, finest + 1).findLastIndex((name) => name !== null);
}

/** Branch `number` of those that name the taxa at one rank. */
function candidate(
  info: BundleInfo,
  names: Names,
  number: number,
  probabilities: Float64Array,
  expected?: Expectation,
): Candidate {
  const {rank, path, start, end} = names.branches[number]!;
  const below = info.taxa.slice(start, end);
  const taxon = below.find((one) => one.rank === rank);
  const own = probabilities.subarray(start, end).map((value, i) => (names.of[start + i] === number ? value : -1));
  const best = below[largest(own, 1)[0]!]!;
  const depth = info.ranks.indexOf(rank);
  const isFinest = depth === finestOf(best, info);
  return {
    id: taxon?.id ?? null,
    name: scientificName(path),
    commonNames: taxon?.common_names ?? {},
    rank,
    path,
    probability: probabilities.subarray(start, end).reduce((sum, value) => sum + value, 0),
    zeroShot: below.every((one) => one.zero_shot === true),
    isFinest: isFinest && best !== taxon,
    note: isFinest ? (best.note ?? null) : null,
    ...(expected?.unexpected.subarray(start, end).every(Boolean) && {unexpected: true as const}),
  };
}

/** Interpret the probabilities of the taxa; with the thresholds of the prior if it has counted. */
export function answerOf(
  info: BundleInfo,
  tree: Tree,
  probabilities: Float64Array,
  {topK = 5, rank, minConfidence, thresholds: own}: ClassifyOptions = {},
  expected?: Expectation,
): Answer {
  const thresholds = own ?? (expected ? info.prior?.thresholds : info.thresholds)?.ranks;
  const best = new Map<string, [number, number]>();
  const ranks: Record<string, Node> = {};
  for (const name of info.ranks) {
    const names = tree.get(name)!;
    const values = sums(names, probabilities);
    const [first] = largest(values, 1);
    if (first === undefined || first >= names.own || values[first]! < 0) continue;
    const {path} = names.branches[first]!;
    best.set(name, [first, values[first]!]);
    ranks[name] = {name: scientificName(path), path, probability: values[first]!};
  }

  const asked = tree.get(rank ?? TAXA)!;
  const summed = sums(asked, probabilities);
  const taxa = largest(summed, topK)
    .filter((number) => summed[number]! >= 0)
    .map((number) => candidate(info, asked, number, probabilities, expected));

  const lowest = rank ? info.ranks.indexOf(rank) : info.ranks.length - 1;
  let answer: Candidate | null = null;
  for (let r = lowest; r >= 0 && !answer; r--) {
    const threshold = minConfidence ?? thresholds?.[info.ranks[r]!];
    const found = best.get(info.ranks[r]!);
    if (!found || threshold == null || found[1] < threshold) continue;
    answer = candidate(info, tree.get(info.ranks[r]!)!, found[0], probabilities, expected);
  }
  return {taxa, ranks, answer, ...(expected && {placed: true as const})};
}

/** Throw a BioClipError for impossible options, instead of giving an empty answer. */
export function checkOptions(info: BundleInfo, {topK, rank, minConfidence, place, date}: ClassifyOptions): void {
  checkWhere({place, date});
  if (topK !== undefined && !(Number.isInteger(topK) && topK > 0)) {
    throw new BioClipError('argument', `topK is ${topK}, not a positive whole number`);
  }
  if (rank !== undefined && !info.ranks.includes(rank)) {
    throw new BioClipError('argument', `rank is ${rank}; this bundle has the ranks ${info.ranks.join(', ')}`);
  }
  if (minConfidence !== undefined && !(minConfidence >= 0 && minConfidence <= 1)) {
    throw new BioClipError('argument', `minConfidence is ${minConfidence}, not a probability between 0 and 1`);
  }
}
