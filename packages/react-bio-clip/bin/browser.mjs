#!/usr/bin/env node
/** Classify image files and WebDataset shards with a bundle, in headless Chromium; see ../README.md. */

import {statSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import path from 'node:path';
import {fileURLToPath} from 'node:url';

import {command} from './built.mjs';

const WASM = path.dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm/package.json'));
const PAGE = fileURLToPath(new URL('page.mjs', import.meta.url));

await command(async () => {
  const {build} = await import('esbuild');
  const {launchChromium, peakOfPage, serve} = await import('./chromium.mjs');
  const {readOptions, run} = await import('./run.mjs');
  const {decode} = await import('../dist/core/node.js');

  const options = readOptions('browser.mjs', {decoded: {type: 'boolean', default: false}});
  const browser = await launchChromium({graphics: options.backend === 'webgl'});
  const bundling = {entryPoints: [PAGE], bundle: true, format: 'esm', minify: true, write: false, logLevel: 'error'};
  const script = (await build(bundling)).outputFiles[0].contents;
  let image = null;
  const server = await serve(async (name) => {
    if (name === '/') return '<!doctype html><script type="module" src="/page.js"></script>';
    if (name === '/page.js') return script;
    if (name === '/image') return image;
    const file = path.basename(name);
    if (name === `/wasm/${file}`) return readFile(path.join(WASM, 'dist', file));
    if (name === `/bundle/${file}`) return readFile(path.join(options.folder, file));
    return null;
  });
  try {
    const page = await browser.newPage();
    await page.goto(server.url);
    await page.waitForFunction(() => globalThis.bioclip);
    const call = async (name, ...values) => {
      const {value, error} = await page.evaluate(([f, v]) => globalThis.bioclip[f](...v), [name, values]);
      if (error !== undefined) throw new Error(error);
      return value;
    };
    /** Pass an image to the page: as a file, or with --decoded as the pixels that Node decodes. */
    const offer = async (bytes) => {
      const pixels = options.decoded ? await decode(bytes) : null;
      image = pixels ? pixels.data : bytes;
      return pixels ? {width: pixels.width, height: pixels.height} : {};
    };
    const named = (file) => (error) => {
      throw new Error(`${file}: ${error.message}`);
    };

    const {info, milliseconds, renderer} = await call('load', options.backend);
    const engine = {
      info,
      backend: options.backend,
      bytes: info.bytes + statSync(path.join(options.folder, 'bundle.json')).size,
      about: {browser: `Chromium ${browser.version()}`, load_ms: milliseconds, ...(renderer ? {renderer} : {})},
      classify: async (bytes, file, top) => {
        const found = await offer(bytes)
          .then((size) => call('classify', size, top))
          .catch(named(file));
        const [embedding, logits] = [Float32Array.from(found.embedding), Float32Array.from(found.logits)];
        return {...found, embedding, logits};
      },
      peak: () => peakOfPage(browser),
      latency: (bytes, file, runs) =>
        offer(bytes)
          .then((size) => call('latency', size, runs))
          .catch(named(file)),
    };
    await run(engine, options);
  } finally {
    server.close();
    await browser.close();
  }
});
