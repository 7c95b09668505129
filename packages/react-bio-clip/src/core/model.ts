/** Shared by the models for photographs and for texts: one input, one output, unit vectors, calls in turn. */

import type {GraphModel} from '@tensorflow/tfjs-converter';
import * as tf from '@tensorflow/tfjs-core';

import {abortable, BioClipError, throwIfAborted} from './errors.js';

/** Read while TensorFlow.js sets up a backend; returns what was read. */
export async function readMeanwhile<T>(backendSet: Promise<void>, read: () => Promise<T>, signal?: AbortSignal) {
  const begin = async () => {
    throwIfAborted(signal);
    return read();
  };
  const [found] = await Promise.all([begin(), backendSet]);
  return found;
}

/** A loaded model on the runtime that computes it. */
export interface Model {
  /** Name of the runtime: a backend of TensorFlow.js, or tflite. */
  readonly backend: string;
  /** Run on an input of this shape; returns the output row by row. */
  run(input: Float32Array, shape: [number, number, number, number]): Promise<Float32Array>;
  dispose(): void;
}

/** A model of TensorFlow.js, which stays on the backend that is current now. */
export function onTensorFlow(model: GraphModel): Model {
  const backend = tf.getBackend();
  return {
    backend,
    async run(input, shape) {
      if (tf.getBackend() !== backend) await tf.setBackend(backend);
      const output = tf.tidy(() => model.predict(tf.tensor4d(input, shape)) as tf.Tensor);
      try {
        return (await output.data()) as Float32Array;
      } finally {
        output.dispose();
      }
    },
    dispose: () => model.dispose(),
  };
}

/** Divide the output of a model on `backend` by its length. */
export function unit(vector: Float32Array, backend: string): Float32Array {
  const norm = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  if (!(norm > 0 && norm < Infinity)) {
    throw new BioClipError('backend', `the model gives no usable numbers on backend ${backend}; try another backend`);
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

/** Queue the calls of one model; `label` names it in error messages. */
export function turnsOf(model: Model, label: string): Turns {
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
