/**
 * One model in several runtimes in one headless Chromium: node web.mjs JOB.json, made by web.py; writes JSON lines.
 *
 * Every runtime has a page, and so a process, of its own. Pages load one after the other; then those with as many
 * threads answer once per round, in turn, so that what else the machine does hits all of them alike.
 */

import {readFileSync} from 'node:fs';
import {readFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {gzipSync} from 'node:zlib';

import {launchChromium, serve} from '../packages/react-bio-clip/bin/chromium.mjs';
import {peakOf} from '../packages/react-bio-clip/bin/memory.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const PACKAGE = path.join(HERE, '..', 'packages', 'react-bio-clip');
const require = createRequire(path.join(PACKAGE, 'package.json'));
const {build} = require('esbuild');
const WASM = path.join(path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json')), 'dist');
const WARM_UP = 5;

const job = JSON.parse(readFileSync(process.argv[2]));
const ORT = path.join(job.ort, 'node_modules', 'onnxruntime-web', 'dist');

const TENSORFLOW = `
  import {getThreadsCount} from '@tensorflow/tfjs-backend-wasm';
  import {startBackend} from './dist/core/backend.js';
  import {downloadBundle, openDownload} from './dist/core/bundle.js';
  import {predict} from './dist/core/clip.js';
  import {originOf} from './dist/core/origin.js';
  globalThis.runtime = {getThreadsCount, startBackend, downloadBundle, openDownload, predict, originOf};
`;
const SCRIPTS = {
  wasm: TENSORFLOW,
  webgl: `import '@tensorflow/tfjs-backend-webgl';\n${TENSORFLOW}`,
  onnx: `import * as ort from 'onnxruntime-web/wasm'; globalThis.runtime = ort;`,
};

async function bundled(contents) {
  const page = `await import(${JSON.stringify(path.join(HERE, 'web_page.mjs'))});`;
  const stdin = {contents: `${contents}\n${page}`, resolveDir: PACKAGE};
  const {outputFiles} = await build({
    stdin,
    bundle: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    write: false,
    nodePaths: [path.join(job.ort, 'node_modules')],
    logLevel: 'error',
  });
  return Buffer.from(outputFiles[0].contents);
}

/** What a page of a runtime asks its server for; what it asked for is counted. */
async function serverOf({script, model, threads}) {
  const code = await bundled(SCRIPTS[script]);
  const asked = new Map();
  const content = async (name) => {
    const file = path.basename(name);
    if (name === '/') return '<!doctype html><script type="module" src="/page.js"></script>';
    if (name === '/page.js') return code;
    if (name === '/model.onnx') return readFile(job.onnx[model]);
    if (name.startsWith('/bundle/')) return readFile(path.join(job.bundle, file));
    if (name.startsWith('/wasm/')) return readFile(path.join(WASM, file));
    if (name.startsWith('/ort/')) return readFile(path.join(ORT, file));
    return null;
  };
  const counted = async (name) => {
    const body = await content(name);
    if (body !== null && name !== '/') asked.set(name, body);
    return body;
  };
  return {...(await serve(counted, {isolated: threads > 1})), asked};
}

const isModel = (name) => name === '/model.onnx' || name.startsWith('/bundle/');

function sizes(asked) {
  const total = (wanted, size) => [...asked].filter(([name]) => isModel(name) === wanted).reduce((sum, [, body]) => sum + size(body), 0);
  const zipped = (body) => gzipSync(body, {level: 9}).length;
  return {
    runtime_bytes: total(false, (body) => body.length),
    runtime_gzipped: total(false, zipped),
    model_bytes: total(true, (body) => body.length),
    model_gzipped: total(true, zipped),
  };
}

/** The process of the page that was opened last: of those that draw pages and are nobody's yet, the one of most memory. */
async function processOf(browser, taken) {
  const session = await browser.newBrowserCDPSession();
  const {processInfo} = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const free = processInfo.filter(({type, id}) => type === 'renderer' && !taken.includes(id)).map(({id}) => id);
  return free.sort((one, other) => peakOf(other) - peakOf(one))[0];
}

async function open(browser, way, taken) {
  const {runtime, backend = '', threads} = way;
  const server = await serverOf(way);
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${server.url}?${new URLSearchParams({runtime, backend, threads, size: job.size})}`);
  await page.waitForFunction(() => globalThis.benchmark, null, {timeout: 120_000});
  const {milliseconds, vector, isolated, started} = await page.evaluate(() => globalThis.benchmark.first());
  if (isolated !== threads > 1) throw new Error(`${JSON.stringify(way)}: isolated is ${isolated}`);
  const pid = await processOf(browser, taken);
  return {way, page, server, pid, cold: milliseconds, vector, started, times: []};
}

/** Pages that take turns. Threads of onnxruntime spin after an answer and would slow whoever is next on one thread. */
function crowds(opened) {
  const crowd = ({way}) => `${way.threads} ${way.backend === 'webgl'}`;
  return [...new Set(opened.map(crowd))].map((name) => opened.filter((page) => crowd(page) === name));
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

const browser = await launchChromium();
try {
  const opened = [];
  for (const way of job.ways) opened.push(await open(browser, way, opened.map(({pid}) => pid)));
  for (const some of crowds(opened)) {
    for (let round = -WARM_UP; round < job.runs; round++) {
      for (const {page, times, way} of some) {
        if (way.runs !== undefined && round >= way.runs) continue;
        const time = await page.evaluate(() => globalThis.benchmark.once());
        if (round >= 0) times.push(time);
      }
    }
  }
  const reference = opened.find(({way}) => way.model === 'fp32').vector;
  for (const {way, server, pid, cold, vector, started, times} of opened) {
    const sorted = [...times].sort((a, b) => a - b);
    const row = {
      way: way.name,
      threads: way.threads,
      started,
      browser: browser.version(),
      cold,
      median: sorted[sorted.length >> 1],
      min: sorted[0],
      runs: sorted.length,
      peak_bytes: peakOf(pid) ?? 0,
      cosine: cosine(vector, reference),
      ...sizes(server.asked),
    };
    console.log(JSON.stringify(row));
  }
  for (const {server} of opened) server.close();
} finally {
  await browser.close();
}
