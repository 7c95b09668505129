/** A classifier on the backend that is set; `loadBioClip` in ../index.ts sets one up before. */

import * as tf from '@tensorflow/tfjs-core';

import {downloadBundle, openDownload, type Bundle} from './bundle.js';
import {abortable, BioClipError, throwIfAborted} from './errors.js';
import {originOf} from './origin.js';
import {pixelsOf} from './pixels.js';
import {preprocessImage} from './preprocess.js';
import {logits, softmax} from './taxa.js';
import {answerOf, checkOptions} from './tree.js';
import type {BioClip, CallOptions, ImageInput, LoadOptions, Pixels, Source} from './types.js';

/** Load a bundle; its files are read while TensorFlow.js sets up a backend, where it is not set yet. */
export async function openBioClip(
  source: Source,
  {signal, onProgress}: Pick<LoadOptions, 'signal' | 'onProgress'> = {},
  backendSet: Promise<void> = Promise.resolve(),
): Promise<BioClip> {
  const read = async () => {
    throwIfAborted(signal);
    return downloadBundle(await originOf(source), {signal, onProgress});
  };
  const [download] = await Promise.all([read(), backendSet]);
  const backend = tf.getBackend();
  return clipOf(await openDownload(download, signal), backend);
}

/** The model alone: embeddings, not normalised, of one preprocessed image or of several one after another. */
export async function predict({info, model}: Pick<Bundle, 'info' | 'model'>, input: Float32Array) {
  const {size} = info.preprocess;
  const output = tf.tidy(() => {
    const images = tf.tensor4d(input, [input.length / (size * size * 3), size, size, 3]);
    return model.predict(images) as tf.Tensor;
  });
  try {
    return (await output.data()) as Float32Array;
  } finally {
    output.dispose();
  }
}

/** The unit embedding of an image. */
export async function embed(bundle: Pick<Bundle, 'info' | 'model'>, image: Pixels): Promise<Float32Array> {
  const vector = await predict(bundle, preprocessImage(image, bundle.info.preprocess));
  const norm = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  if (!(norm > 0 && norm < Infinity)) {
    throw new BioClipError(`the model gives no usable numbers on backend ${tf.getBackend()}; try another backend`);
  }
  return vector.map((value) => value / norm);
}

export function clipOf(bundle: Bundle, backend: string): BioClip {
  const {info, model, table, tree} = bundle;
  let disposed = false;
  let last: Promise<unknown> = Promise.resolve();

  function check(): void {
    if (disposed) throw new BioClipError('this classifier has been disposed of; load it again');
  }

  /** Calls are answered one at a time, in their order: the backend has one memory. */
  function inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const result = last.then(async () => {
      throwIfAborted(signal);
      check();
      if (tf.getBackend() !== backend) await tf.setBackend(backend);
      return work();
    });
    last = result.catch(() => {});
    return abortable(result, signal);
  }

  async function embedding(image: ImageInput, {signal}: CallOptions = {}): Promise<Float32Array> {
    check();
    throwIfAborted(signal);
    const pixels = await abortable(pixelsOf(image), signal);
    return inTurn(signal, () => embed(bundle, pixels));
  }

  return {
    info,
    backend,
    embed: embedding,
    async classify(image, options = {}) {
      checkOptions(info, options);
      const found = await embedding(image, options);
      const probabilities = softmax(logits(info, table, found), info.temperature);
      return answerOf(info, tree, probabilities, options);
    },
    dispose() {
      if (!disposed) model.dispose();
      disposed = true;
    },
  };
}
