#!/usr/bin/env node
/** Print the SHA-256 of each float32 tensor of a bundle's model, as TensorFlow.js decodes it; see ../README.md. */

import {createHash} from 'node:crypto';

import * as tf from '@tensorflow/tfjs-core';

import {command} from './built.mjs';

await command(async () => {
  const {readModel} = await import('../dist/core/bundle.js');
  const {folderOrigin, startNodeBackend} = await import('../dist/core/node.js');

  const folder = process.argv[2];
  if (!folder) throw new Error('usage: weights.mjs BUNDLE');
  await startNodeBackend('cpu');
  const {weightData, weightSpecs} = await readModel(folderOrigin(folder));
  const hashes = {};
  for (const [name, tensor] of Object.entries(tf.io.decodeWeights(weightData, weightSpecs))) {
    if (tensor.dtype !== 'float32') continue;
    const values = await tensor.data();
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    hashes[name] = createHash('sha256').update(bytes).digest('hex');
  }
  console.log(JSON.stringify(hashes));
});
