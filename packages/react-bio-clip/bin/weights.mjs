#!/usr/bin/env node
/** SHA-256 of each float32 tensor of a bundle's model, as TensorFlow.js decodes it; see ../README.md. */

import {createHash} from 'node:crypto';

import * as tf from '@tensorflow/tfjs-core';

import {readModel} from '../src/bundle.js';
import {fileReader, useBackend} from '../src/node.js';

async function main() {
  const folder = process.argv[2];
  if (!folder) throw new Error('usage: weights.mjs BUNDLE');
  await useBackend('cpu');
  const {artifacts} = await readModel(fileReader(folder));
  const weights = tf.io.decodeWeights(/** @type {ArrayBuffer} */ (artifacts.weightData), artifacts.weightSpecs ?? []);
  /** @type {Object<string, string>} */
  const hashes = {};
  for (const [name, tensor] of Object.entries(weights)) {
    if (tensor.dtype !== 'float32') continue;
    const values = await tensor.data();
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    hashes[name] = createHash('sha256').update(bytes).digest('hex');
  }
  console.log(JSON.stringify(hashes));
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
