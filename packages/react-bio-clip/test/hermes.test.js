/**
 * React Native's engine: the adapter, the model and the words of packages/example-expo run in the virtual machine of
 * Hermes. Only what a device gives is replaced: its modules, files and the parts of a browser that React Native adds.
 */

import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {createHash} from 'node:crypto';
import {access, chmod, mkdir, mkdtemp, readFile, rename, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

import '@tensorflow/tfjs-backend-cpu';
import {build} from 'esbuild';
import {decode} from 'jpeg-js';
import sharp from 'sharp';
import ts from 'typescript';

import {loadBioClip} from '../dist/native/index.js';
import {makeBundle, makeLitert, plain, readerOf, SIZE} from './fixture.js';

const run = promisify(execFile);
const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
const EXAMPLE = path.join(PACKAGE, '..', 'example-expo');
const CACHE = path.join(PACKAGE, 'node_modules', '.cache', 'hermes');
/** The newest package with a virtual machine for Linux; later ones have the compiler alone. */
const HERMES = 'hermes-engine-cli@0.12.0';
const SHA256 = '21b99aeea2e6246216572d8bb287cfca96ba2b8957f16782c412ad820b5492a7';
const SKIP = process.platform === 'linux' && process.arch === 'x64' ? false : `${HERMES} is for Linux on x64`;

let folder;
let hermes;
before(async () => {
  if (SKIP) return;
  folder = await mkdtemp(path.join(tmpdir(), 'hermes-'));
  hermes = await virtualMachine();
});
after(() => folder && rm(folder, {recursive: true}));

/** Path of the virtual machine, which is downloaded once, 57 MB. */
async function virtualMachine() {
  const file = path.join(CACHE, SHA256);
  const isThere = await access(file).then(
    () => true,
    () => false,
  );
  if (isThere) return file;
  const {stdout} = await run('npm', ['pack', HERMES, '--silent', '--prefer-offline'], {cwd: folder});
  const member = 'package/linux64-bin/hermes';
  await run('tar', ['-xzf', stdout.trim(), member], {cwd: folder});
  const found = path.join(folder, member);
  assert.equal(
    createHash('sha256')
      .update(await readFile(found))
      .digest('hex'),
    SHA256,
    HERMES,
  );
  await chmod(found, 0o755);
  await mkdir(CACHE, {recursive: true});
  await rename(found, file).catch(async () => writeFile(file, await readFile(found), {mode: 0o755})); // another disk
  return file;
}

/** Modules of a device. Files are in `device.files`, by address. */
const DEVICE = {
  'expo-asset': `export class Asset {
    static fromModule(number) { return {downloadAsync: async () => ({localUri: device.assets[number]})}; }
  }`,
  'expo-file-system': `export class File {
    constructor(uri) { this.uri = uri; }
    async arrayBuffer() {
      const bytes = device.files[this.uri];
      if (!bytes) throw new Error(this.uri + ' is missing');
      return bytes.slice().buffer;
    }
    delete() { delete device.files[this.uri]; }
  }`,
  'expo-image-manipulator': `export const ImageManipulator = {
    manipulate: (uri) => ({
      resize() { throw new Error('the photograph is small enough'); },
      renderAsync: async () => ({width: 12, height: 10, async saveAsync() {
        device.files['copy:' + uri] = device.files[uri];
        return {uri: 'copy:' + uri};
      }}),
    }),
  };`,
  'react-native-fast-tflite': `
    import {standInOf} from ${JSON.stringify(path.join(PACKAGE, 'test', 'tflite.js'))};
    const {tflite} = standInOf(${SIZE});
    export const loadTensorflowModel = async (source) => {
      if (!device.files[source.url]) throw new Error(source.url + ' is missing');
      return tflite(source);
    };`,
  '../assets/model': 'export default device.bundled;',
};

/** What React Native adds to its engine. As there, signals have no reason, and \`atob\` is missing. */
const PLATFORM = `
  globalThis.global = globalThis.window = globalThis;
  globalThis.console = {log: print, warn: print, error: print, info: print, debug: print};
  globalThis.URL = class URL {};
  globalThis.performance = {now: () => Date.now()};
  globalThis.TextEncoder = class {
    encode(text) { return Uint8Array.from(unescape(encodeURIComponent(text)), (letter) => letter.charCodeAt(0)); }
  };
  globalThis.TextDecoder = class {
    decode(bytes) {
      let text = '';
      for (const byte of new Uint8Array(bytes)) text += String.fromCharCode(byte);
      return decodeURIComponent(escape(text));
    }
  };
  globalThis.AbortController = class {
    constructor() {
      const listeners = new Set();
      this.signal = {
        aborted: false,
        addEventListener: (_, listener) => listeners.add(listener),
        removeEventListener: (_, listener) => listeners.delete(listener),
      };
      this.abort = () => {
        this.signal.aborted = true;
        for (const listener of listeners) listener();
      };
    }
  };
`;

/** The device with a bundle built into the application and one photograph, as code. */
function deviceOf({bundle, files}, photo) {
  const names = Object.keys(files);
  const listed = [...names.map((name) => [`asset:/${name}`, files[name]]), ['file:///photo.jpg', photo]];
  const bytes = listed.map(([uri, content]) => `${JSON.stringify(uri)}: Uint8Array.of(${[...content]})`);
  const numbers = Object.fromEntries(names.map((name, i) => [name, i]));
  const assets = names.map((name) => `asset:/${name}`);
  return `globalThis.device = {assets: ${JSON.stringify(assets)}, files: {${bytes}},
    bundled: ${JSON.stringify({bundle, files: numbers})}};`;
}

/** Bundle a module, lower it to what this version of Hermes reads, and run it; gives what it printed. */
async function inHermes(device, contents) {
  const stand = {
    name: 'device',
    setup({onResolve, onLoad}) {
      onResolve({filter: /^(expo-|react-native-|\.\.\/assets\/model$)/}, ({path: name}) => ({
        path: name,
        namespace: 'device',
      }));
      onLoad({filter: /.*/, namespace: 'device'}, ({path: name}) => ({contents: DEVICE[name], resolveDir: PACKAGE}));
      onResolve({filter: /^react-bio-clip\//}, ({path: name, resolveDir}) =>
        resolveDir === EXAMPLE || resolveDir.startsWith(`${EXAMPLE}/`)
          ? {path: path.join(PACKAGE, 'dist', name === 'react-bio-clip/native' ? 'native/index.js' : 'native/expo.js')}
          : undefined,
      );
    },
  };
  const {outputFiles} = await build({
    stdin: {contents, resolveDir: PACKAGE},
    bundle: true,
    write: false,
    format: 'iife',
    mainFields: ['module', 'main'],
    plugins: [stand],
    logLevel: 'error',
  });
  const options = {target: ts.ScriptTarget.ES5, downlevelIteration: true, module: ts.ModuleKind.None};
  const lower = (code) => ts.transpileModule(code, {compilerOptions: options}).outputText;
  const file = path.join(folder, 'application.js');
  await writeFile(file, [PLATFORM, device, outputFiles[0].text].map(lower).join('\n'));
  const {stdout, stderr} = await run(hermes, [file], {maxBuffer: 1e8}).catch((error) => error);
  assert.equal(stderr, '');
  return stdout;
}

const example = (name) => JSON.stringify(path.join(EXAMPLE, 'src', name));
const leaf = () =>
  sharp(plain([20, 230, 30], 12, 10).data, {raw: {width: 12, height: 10, channels: 3}})
    .withMetadata({orientation: 6})
    .jpeg()
    .toBuffer();

/** What the same package answers in Node. */
async function inNode(photo) {
  const adapter = {readFile: readerOf(makeBundle()), decodeJpeg: (jpeg) => decode(jpeg, {useTArray: true})};
  const clip = await loadBioClip(adapter, {backend: 'cpu'});
  return clip.classifyJpeg(photo);
}

function assertSame(taxa, expected) {
  assert.deepEqual(
    taxa.map(({name}) => name),
    expected.map(({name}) => name),
  );
  taxa.forEach(({probability}, i) => {
    assert.ok(Math.abs(probability - expected[i].probability) < 1e-5);
  });
}

test('the example answers from its bundle for LiteRT', {skip: SKIP}, async () => {
  const photo = await leaf();
  const printed = await inHermes(
    deviceOf(makeLitert().made, photo),
    `import {loadBioClip} from './dist/native/index.js';
    import {adapter} from ${example('model.ts')};
    import {rowsOf, summaryOf} from ${example('words.ts')};
    loadBioClip(adapter).then(async (clip) => {
      const answer = await clip.classifyUri('file:///photo.jpg');
      const stop = new AbortController();
      const cancelled = clip.classifyUri('file:///photo.jpg', {signal: stop.signal}).catch((error) => error.name);
      stop.abort();
      print(JSON.stringify({
        backend: clip.backend,
        taxa: answer.taxa,
        summary: summaryOf(answer),
        rows: rowsOf(answer, clip.info.ranks),
        cancelled: await cancelled,
        left: Object.keys(device.files).filter((uri) => uri.startsWith('copy:')),
      }));
    }).catch((error) => print(error.stack));`,
  );
  const found = JSON.parse(printed);
  assert.equal(found.backend, 'tflite');
  const expected = await inNode(photo);
  assertSame(found.taxa, expected.taxa);
  assert.deepEqual(found.summary, {title: 'A genus: Morus', note: null});
  assert.deepEqual(
    found.rows.map(({rank}) => rank),
    Object.keys(expected.ranks),
  );
  assert.deepEqual(
    found.rows.filter(({isAnswer}) => isAnswer).map(({rank}) => rank),
    [expected.answer.rank],
  );
  assert.equal(found.cancelled, 'AbortError');
  assert.deepEqual(found.left, []); // the manipulator's copies
});

test("a bundle for TensorFlow.js answers on its cpu backend, without a browser's platform", {skip: SKIP}, async () => {
  const photo = await leaf();
  const printed = await inHermes(
    deviceOf(makeBundle(), photo),
    `import '@tensorflow/tfjs-backend-cpu';
    import {loadBioClip} from './dist/native/index.js';
    import {adapter} from ${example('model.ts')};
    print(typeof atob);
    loadBioClip(adapter, {backend: 'cpu'})
      .then((clip) => clip.classifyUri('file:///photo.jpg'))
      .then(({taxa}) => print(JSON.stringify(taxa)))
      .catch((error) => print(error.stack));`,
  );
  const [atob, taxa] = printed.split('\n');
  assert.equal(atob, 'undefined');
  assertSame(JSON.parse(taxa), (await inNode(photo)).taxa);
});
