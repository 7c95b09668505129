#!/usr/bin/env node
/** Classify image files and WebDataset shards with a bundle, in Node; see ../README.md. */

import {statSync} from 'node:fs';
import path from 'node:path';

import {command} from './built.mjs';
import {peakOf} from './memory.mjs';

await command(async () => {
  const {readOptions, run} = await import('./run.mjs');
  const {computeAll} = await import('../dist/core/engine.js');
  const {measureLatency} = await import('../dist/core/latency.js');
  const {decode, openFolder} = await import('../dist/core/node.js');

  const options = readOptions('classify.mjs');
  const bundle = await openFolder(options.folder, options.backend);
  const decoded = (bytes, file) =>
    decode(bytes).catch((error) => {
      throw new Error(`${file}: cannot be decoded as an image (${error.message})`);
    });
  const engine = {
    info: bundle.info,
    backend: options.backend,
    bytes: bundle.info.bytes + statSync(path.join(options.folder, 'bundle.json')).size,
    classify: async (bytes, file, top) => {
      const outputs = await computeAll(bundle, await decoded(bytes, file), top);
      return {...outputs, at: performance.now()};
    },
    latency: async (bytes, file, runs) => measureLatency(bundle, await decoded(bytes, file), runs),
    peak: async () => peakOf(process.pid),
  };
  await run(engine, options);
});
