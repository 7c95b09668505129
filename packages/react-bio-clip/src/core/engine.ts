/** All outputs for one image that bin/classify.mjs and the page of bin/browser.mjs write. */

import type {Bundle} from './bundle.js';
import {embed} from './clip.js';
import {BioClipError} from './errors.js';
import {answerFor} from './off-list.js';
import {logits, probabilitiesOf} from './taxa.js';
import type {Answer, Pixels} from './types.js';

export interface Outputs {
  embedding: Float32Array;
  /** logit_scale * text . embedding, without the temperature, in the order of the whole table. */
  logits: Float32Array;
  answer: Answer;
}

export async function computeAll(bundle: Bundle, image: Pixels, topK: number): Promise<Outputs> {
  const embedding = await embed(bundle, image);
  const {info, table, tree, sizes, missing} = await bundle.taxa.rowsFor(embedding);
  if (missing.length) throw new BioClipError('unreachable', `the parts of ${missing.join(', ')} cannot be read`);
  const scores = logits(info, table, embedding);
  const answer = answerFor(info, tree, probabilitiesOf(info, scores), scores, {topK});
  return {embedding, logits: spread(scores, sizes), answer};
}

/** The logits of all taxa: one of a clade that is not loaded has that of its clade. */
function spread(scores: Float32Array, sizes: number[]): Float32Array {
  const all = new Float32Array(sizes.reduce((sum, size) => sum + size, 0));
  let at = 0;
  sizes.forEach((size, i) => {
    all.fill(scores[i]!, at, at + size);
    at += size;
  });
  return all;
}
