/** Sum the probabilities of the taxa up the tree, and choose the answer that is certain enough. */

import {BioClipError} from './errors.js';
import type {Answer, BundleInfo, Candidate, ClassifyOptions, Node, Taxon} from './types.js';

/** A node of the tree: taxa `start` up to, not including, `end` lie below it. */
export interface Branch {
  rank: string;
  path: (string | null)[];
  start: number;
  end: number;
}

/** The nodes of each rank, in tree order. */
export type Tree = Map<string, Branch[]>;

/** Find the nodes of each rank; BioClipError if the taxa below a node are not neighbours, as the sums require. */
export function plantTree({ranks, taxa}: BundleInfo): Tree {
  const tree: Tree = new Map();
  ranks.forEach((rank, r) => {
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
        branches[branches.length - 1].end = i + 1;
        return;
      }
      if (seen.has(key)) {
        throw new BioClipError(
          `bundle.json: the taxa of ${rank} ${taxon.ranks[r]} are not side by side`,
          'bundle.json',
        );
      }
      seen.add(key);
      last = key;
      branches.push({rank, path, start: i, end: i + 1});
    });
    tree.set(rank, branches);
  });
  return tree;
}

/** Sum the probabilities of the taxa below each branch. */
function sums(branches: Branch[], probabilities: Float64Array): Float64Array {
  return Float64Array.from(branches, ({start, end}) => {
    let sum = 0;
    for (let i = start; i < end; i++) sum += probabilities[i];
    return sum;
  });
}

/** Positions of the k largest values in descending order; the first of equal values wins. */
export function largest(values: Float64Array, k: number): number[] {
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (found.length === k && values[i] <= values[found[k - 1]]) continue;
    let place = found.length;
    while (place > 0 && values[found[place - 1]] < values[i]) place--;
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

function candidate({id, rank, ranks, common_names}: Taxon, info: BundleInfo, probability: number): Candidate {
  const path = ranks.slice(0, info.ranks.indexOf(rank) + 1);
  return {id, name: scientificName(path), commonNames: common_names, rank, path, probability};
}

function branchCandidate(branch: Branch, info: BundleInfo, probability: number): Candidate {
  const {rank, path, start, end} = branch;
  const taxon = info.taxa.slice(start, end).find((below) => below.rank === rank);
  if (taxon) return candidate(taxon, info, probability);
  return {id: null, name: scientificName(path), commonNames: {}, rank, path, probability};
}

/** Interpret the probabilities of the taxa. */
export function answerOf(
  info: BundleInfo,
  tree: Tree,
  probabilities: Float64Array,
  {topK = 5, rank, minConfidence}: ClassifyOptions = {},
): Answer {
  const summed = new Map(info.ranks.map((name) => [name, sums(tree.get(name)!, probabilities)]));
  const best = new Map<string, [Branch, number]>();
  for (const [name, values] of summed) {
    const [first] = largest(values, 1);
    if (first !== undefined) best.set(name, [tree.get(name)![first], values[first]]);
  }
  const ranks: Record<string, Node> = {};
  for (const [name, [{path}, probability]] of best) ranks[name] = {name: scientificName(path), path, probability};

  const taxa = rank
    ? largest(summed.get(rank)!, topK).map((i) => branchCandidate(tree.get(rank)![i], info, summed.get(rank)![i]))
    : largest(probabilities, topK).map((i) => candidate(info.taxa[i], info, probabilities[i]));

  const lowest = rank ? info.ranks.indexOf(rank) : info.ranks.length - 1;
  let answer: Candidate | null = null;
  for (let r = lowest; r >= 0 && !answer; r--) {
    const threshold = minConfidence ?? info.thresholds?.ranks[info.ranks[r]];
    const found = best.get(info.ranks[r]);
    if (found && threshold != null && found[1] >= threshold) answer = branchCandidate(found[0], info, found[1]);
  }
  return {taxa, ranks, answer};
}

/** Throw a BioClipError for impossible options, instead of giving an empty answer. */
export function checkOptions(info: BundleInfo, {topK, rank, minConfidence}: ClassifyOptions): void {
  if (topK !== undefined && !(Number.isInteger(topK) && topK > 0)) {
    throw new BioClipError(`topK is ${topK}, not a positive whole number`);
  }
  if (rank !== undefined && !info.ranks.includes(rank)) {
    throw new BioClipError(`rank is ${rank}; this bundle has the ranks ${info.ranks.join(', ')}`);
  }
  if (minConfidence !== undefined && !(minConfidence >= 0 && minConfidence <= 1)) {
    throw new BioClipError(`minConfidence is ${minConfidence}, not a probability between 0 and 1`);
  }
}
