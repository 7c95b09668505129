/** A classifier on the current backend, which `loadBioClip` in ../index.ts sets up. */

import {downloadBundle, openDownload, type Bundle} from './bundle.js';
import {abortable, throwIfAborted} from './errors.js';
import type {ReadFolderOptions} from './folder.js';
import {readMeanwhile, turnsOf, unit} from './model.js';
import {answerFor} from './off-list.js';
import {originOf} from './origin.js';
import {listOf, pixelsOf} from './pixels.js';
import {preprocessImage} from './preprocess.js';
import {expect} from './prior.js';
import {logits, probabilitiesOf} from './taxa.js';
import {checkOptions} from './tree.js';
import type {BioClip, CallOptions, ImageInput, Pixels, Source} from './types.js';

/** Load a bundle; read its files while TensorFlow.js sets up a backend. */
export async function openBioClip(
  source: Source,
  options: ReadFolderOptions = {},
  backendSet: Promise<void> = Promise.resolve(),
): Promise<BioClip> {
  const read = async () => downloadBundle(await originOf(source), options);
  const download = await readMeanwhile(backendSet, read, options.signal);
  return clipOf(await openDownload(download, options.signal));
}

/** Run the model on one preprocessed image or on several in a row; returns embeddings, not normalised. */
export async function predict({info, model}: Pick<Bundle, 'info' | 'model'>, input: Float32Array) {
  const {size} = info.preprocess;
  return model.run(input, [input.length / (size * size * 3), size, size, 3]);
}

/** The unit embedding of an image. */
export async function embed(bundle: Pick<Bundle, 'info' | 'model'>, image: Pixels): Promise<Float32Array> {
  return unit(await predict(bundle, preprocessImage(image, bundle.info.preprocess)), bundle.model.backend);
}

/** The mean of embeddings: its logits are the mean of theirs, so probabilities are those of the mean of log-probabilities. */
function mean(embeddings: Float32Array[]): Float32Array {
  return embeddings[0]!.map((_, i) => embeddings.reduce((sum, one) => sum + one[i]!, 0) / embeddings.length);
}

export function clipOf(bundle: Bundle): BioClip {
  const {info, model, taxa, prior} = bundle;
  const {check, inTurn, dispose} = turnsOf(model, 'classifier');

  async function embedding(image: ImageInput, {signal}: CallOptions = {}): Promise<Float32Array> {
    check();
    throwIfAborted(signal);
    const pixels = await abortable(pixelsOf(image), signal);
    return inTurn(signal, () => embed(bundle, pixels));
  }

  return {
    info,
    sha256: bundle.sha256,
    backend: model.backend,
    embed: embedding,
    async classify(image, options = {}) {
      checkOptions(info, options);
      const images = listOf(image);
      const found = mean(await Promise.all(images.map((one) => embedding(one, options))));
      const expected = expect(prior, options);
      const rows = await taxa.rowsFor(found, options.signal);
      const scores = logits(rows.info, rows.table, found);
      const probabilities = probabilitiesOf(rows.info, scores, expected);
      const answer = answerFor(rows.info, rows.tree, probabilities, scores, options, expected);
      return {...answer, ...(rows.missing.length && {missing: rows.missing})};
    },
    async preload(names, options) {
      check();
      return taxa.preload(names, options);
    },
    dispose,
  };
}
