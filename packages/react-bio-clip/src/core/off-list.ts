/** Answers that allow for photographs of what is not on the list, as workflow/bioclip_lite/metrics/off_list.py fits them. */

import type {Expectation} from './prior.js';
import {answerOf, type Tree} from './tree.js';
import type {Answer, BundleInfo, ClassifyOptions} from './types.js';

type Fitted = NonNullable<BundleInfo['off_list']>;

/** Less than this at the lowest rank: the photograph probably shows none of the taxa. */
export const PROBABLY = 0.5;

/**
 * Probability that a photograph shows something below a node of the list at each rank, from its largest logit. Falls from
 * the top rank down, so that nodes stay at least as probable as those below them together.
 */
export function onListOf(ranks: string[], {known}: Fitted, logits: Float32Array): number[] {
  const largest = logits.reduce((best, value) => Math.max(best, value), -Infinity);
  let least = 1;
  return ranks.map((rank) => {
    const [slope, offset] = known[rank]!;
    least = Math.min(least, 1 / (1 + Math.exp(-(slope * largest + offset))));
    return least;
  });
}

/**
 * `answerOf`, and how probable it is that the photograph is on the list; with `offList` the answer allows for that. Its
 * thresholds were fitted for the model alone, so it does not where others are given, or where place and month count.
 */
export function answerFor(
  info: BundleInfo,
  tree: Tree,
  probabilities: Float64Array,
  logits: Float32Array,
  options: ClassifyOptions = {},
  expected?: Expectation,
): Answer {
  const {off_list: fitted, ranks} = info;
  const plain = () => answerOf(info, tree, probabilities, options, expected);
  if (!fitted) return plain();
  const onList = onListOf(ranks, fitted, logits);
  const onListed = {onList: onList[ranks.length - 1]!};
  if (!options.offList || options.minConfidence !== undefined || options.thresholds || expected) {
    return {...plain(), ...onListed};
  }
  const needed = ranks.map((rank, r) => [rank, (fitted.ranks[rank] ?? Infinity) / onList[r]!]);
  const thresholds = {level: fitted.level, ranks: Object.fromEntries(needed)};
  const found = answerOf({...info, thresholds}, tree, probabilities, options);
  const scaled = <Named extends {probability: number}>(node: Named, rank: string) => {
    return {...node, probability: node.probability * onList[ranks.indexOf(rank)]!};
  };
  return {
    ...found,
    ...onListed,
    ranks: Object.fromEntries(Object.entries(found.ranks).map(([rank, node]) => [rank, scaled(node, rank)])),
    answer: found.answer && scaled(found.answer, found.answer.rank),
  };
}
