/** All outputs for one image that bin/classify.mjs and the page of bin/browser.mjs write. */

import type {Bundle} from './bundle.js';
import {embed} from './clip.js';
import {answerFor} from './off-list.js';
import {logits, softmax} from './taxa.js';
import type {Answer, Pixels} from './types.js';

export interface Outputs {
  embedding: Float32Array;
  /** logit_scale * text . embedding, without the temperature, in the order of info.taxa. */
  logits: Float32Array;
  answer: Answer;
}

export async function computeAll(bundle: Bundle, image: Pixels, topK: number): Promise<Outputs> {
  const {info, table, tree} = bundle;
  const embedding = await embed(bundle, image);
  const scores = logits(info, table, embedding);
  return {embedding, logits: scores, answer: answerFor(info, tree, softmax(scores, info.temperature), scores, {topK})};
}
