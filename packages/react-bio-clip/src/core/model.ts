/** What the models of photographs and of texts have in common: one input, one output, unit vectors, calls in turn. */

import type {GraphModel} from '@tensorflow/tfjs-converter';
import * as tf from '@tensorflow/tfjs-core';

import {abortable, BioClipError, throwIfAborted} from './errors.js';

/** What is read while TensorFlow.js sets up a backend, and that backend. */
export async function readMeanwhile<T>(backendSet: Promise<void>, read: () => Promise<T>, signal?: AbortSignal) {
  const begin = async () => {
    throwIfAborted(signal);
    return read();
  };
  const [found] = await Promise.all([begin(), backendSet]);
  return [found, tf.getBackend()] as const;
}

/** The numbers that come out for these, row by row. */
export async function run(model: GraphModel, input: Float32Array, shape: [number, number, number, number]) {
  const output = tf.tidy(() => model.predict(tf.tensor4d(input, shape)) as tf.Tensor);
  try {
    return (await output.data()) as Float32Array;
  } finally {
    output.dispose();
  }
}

/** A vector divided by its length. */
export function unit(vector: Float32Array): Float32Array {
  const norm = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  if (!(norm > 0 && norm < Infinity)) {
    throw new BioClipError(`the model gives no usable numbers on backend ${tf.getBackend()}; try another backend`);
  }
  return vector.map((value) => value / norm);
}

export interface Turns {
  /** Throws after `dispose`. */
  check(): void;
  /** Calls are answered one at a time, in their order: the backend has one memory. */
  inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T>;
  /** Calls that wait and later ones fail. */
  dispose(): void;
}

/** The calls of one model, which messages call `what`, on its backend. */
export function turnsOf(model: GraphModel, backend: string, what: string): Turns {
  let disposed = false;
  let last: Promise<unknown> = Promise.resolve();

  function check(): void {
    if (disposed) throw new BioClipError(`this ${what} has been disposed of; load it again`);
  }

  return {
    check,
    inTurn(signal, work) {
      const result = last.then(async () => {
        throwIfAborted(signal);
        check();
        if (tf.getBackend() !== backend) await tf.setBackend(backend);
        return work();
      });
      last = result.catch(() => {});
      return abortable(result, signal);
    },
    dispose() {
      if (!disposed) model.dispose();
      disposed = true;
    },
  };
}
