/** Shared by the models for photographs and for texts: one input, one output, unit vectors, calls in turn. */

import type {GraphModel} from '@tensorflow/tfjs-converter';
import * as tf from '@tensorflow/tfjs-core';

import {abortable, BioClipError, throwIfAborted} from './errors.js';

/** Read while TensorFlow.js sets up a backend; returns what was read and the backend's name. */
export async function readMeanwhile<T>(backendSet: Promise<void>, read: () => Promise<T>, signal?: AbortSignal) {
  const begin = async () => {
    throwIfAborted(signal);
    return read();
  };
  const [found] = await Promise.all([begin(), backendSet]);
  return [found, tf.getBackend()] as const;
}

/** Run the model on an input of this shape; returns the output row by row. */
export async function run(model: GraphModel, input: Float32Array, shape: [number, number, number, number]) {
  const output = tf.tidy(() => model.predict(tf.tensor4d(input, shape)) as tf.Tensor);
  try {
    return (await output.data()) as Float32Array;
  } finally {
    output.dispose();
  }
}

/** Divide a vector by its length. */
export function unit(vector: Float32Array): Float32Array {
  const norm = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  if (!(norm > 0 && norm < Infinity)) {
    throw new BioClipError(
      'backend',
      `the model gives no usable numbers on backend ${tf.getBackend()}; try another backend`,
    );
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

/** Queue the calls of one model on its backend; `label` names the model in error messages. */
export function turnsOf(model: GraphModel, backend: string, label: string): Turns {
  let disposed = false;
  let last: Promise<unknown> = Promise.resolve();

  function check(): void {
    if (disposed) throw new BioClipError('disposed', `this ${label} has been disposed of; load it again`);
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
