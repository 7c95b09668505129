/** Thresholds of a site from confirmed answers. workflow/bioclip_lite/metrics/site.py computes the same. */

import {BioClipError} from './errors.js';
import type {Answer, BundleInfo, Thresholds} from './types.js';

const LEVEL = 0.95; // share of the answers that are right
const CONFIDENCE = 0.9; // share of the draws of confirmed photographs for which LEVEL holds
const LEAST = 0.5; // probability below which no rank is answered
/** Careful ones first, as metrics/calibration.py lays them out. */
const CANDIDATES = Array.from({length: 70}, (_, i) => Math.round(1e4 * (1 - 1e-4 * 5000 ** (i / 69))) / 1e4);

/** An answer that a person has looked at: one of each observation. */
export interface Confirmed {
  answer: Pick<Answer, 'ranks' | 'answer'>;
  /** The right taxon, at any rank: its path from the kingdom down. null: nothing that the list has. */
  label: readonly (string | null)[] | null;
}

/** Answers that are right, of those whose rightness the labels can tell, with a 95 % interval of their share. */
export interface Share {
  right: number;
  of: number;
  interval: [number, number] | null;
}

export interface Recalibration {
  /** For `classify(image, {thresholds: found.thresholds.ranks})`; null: none holds the promise, or too few answers. */
  thresholds: Thresholds | null;
  /** So few answers could show nothing even if all were right. */
  tooFew: boolean;
  before: Share;
  now: Share;
}

/**
 * Fit thresholds again for a site, from answers that a person has confirmed there, about 100.
 *
 * @throws BioClipError for an answer of another bundle
 */
export function recalibrate({ranks}: BundleInfo, confirmed: readonly Confirmed[]): Recalibration {
  const rows = confirmed.map(({answer, label}) => {
    if (Object.keys(answer.ranks).some((rank) => !ranks.includes(rank)))
      throw new BioClipError('argument', 'an answer has ranks that this bundle does not have');
    const scores = ranks.map((rank) => answer.ranks[rank]?.probability ?? 0);
    const lowest = scores.findLastIndex((score) => score >= LEAST);
    const best = lowest < 0 ? [] : answer.ranks[ranks[lowest]!]!.path;
    const answered = answer.answer ? ranks.indexOf(answer.answer.rank) : -1;
    return {scores, answered, right: best.map((_, rank) => judge(best, label, rank))};
  });
  const at = (threshold: number) =>
    rows.map(({scores, right}) => right[scores.findLastIndex((score) => score >= threshold)] ?? Number.NaN);
  let threshold: number | null = null;
  for (const candidate of CANDIDATES) {
    const {right, of} = counted(at(candidate));
    if (LEVEL ** of > 1 - CONFIDENCE) continue;
    if (atMost(of - right, of, 1 - LEVEL) > 1 - CONFIDENCE) break;
    threshold = candidate;
  }
  return {
    thresholds: threshold === null ? null : thresholdsOf(ranks, threshold),
    tooFew: LEVEL ** counted(at(LEAST)).of > 1 - CONFIDENCE,
    before: counted(rows.map(({answered, right}) => right[answered] ?? Number.NaN)),
    now: counted(at(threshold ?? Infinity)),
  };
}

function thresholdsOf(ranks: string[], threshold: number): Thresholds {
  return {level: LEVEL, confidence: CONFIDENCE, ranks: Object.fromEntries(ranks.map((rank) => [rank, threshold]))};
}

/** Whether the answer at a rank would be right: 1, 0, or NaN where the label cannot tell. */
function judge(best: readonly (string | null)[], label: Confirmed['label'], rank: number): number {
  if (!label) return 0;
  const depth = label.findLastIndex((name) => name);
  for (let r = 0; r <= Math.min(rank, depth); r++) if ((best[r] ?? null) !== (label[r] ?? null)) return 0;
  return depth >= rank ? 1 : Number.NaN;
}

function counted(right: readonly number[]): Share {
  const judged = right.filter((value) => !Number.isNaN(value));
  const good = judged.filter((value) => value === 1).length;
  const of = judged.length;
  // Clopper and Pearson, Biometrika 26, 1934
  const low = good ? crossing((share) => 1 - atMost(good - 1, of, share) < 0.025) : 0;
  const high = good < of ? crossing((share) => atMost(good, of, share) > 0.025) : 1;
  return {right: good, of, interval: of ? [low, high] : null};
}

/** The share at which what holds for small shares ends. */
function crossing(holds: (share: number) => boolean): number {
  let [low, high] = [0, 1];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (holds(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/** The probability of at most k of n, each with probability p. */
function atMost(k: number, n: number, p: number): number {
  let log = n * Math.log1p(-p);
  let sum = Math.exp(log);
  for (let i = 1; i <= k; i++) {
    log += Math.log((n - i + 1) / i) + Math.log(p) - Math.log1p(-p);
    sum += Math.exp(log);
  }
  return sum;
}
