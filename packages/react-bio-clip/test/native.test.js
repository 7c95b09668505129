/** React Native without a device: only what the device gives is replaced (expo-asset, XMLHttpRequest, Metro). */

import assert from 'node:assert/strict';
import {execFile} from 'node:child_process';
import {access, mkdtemp, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {register} from 'node:module';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {fileURLToPath, pathToFileURL} from 'node:url';
import {promisify} from 'node:util';

import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import sharp from 'sharp';

import {loadBioClip} from '../dist/native/index.js';
import {exifOrientation, upright} from '../dist/native/orientation.js';
import {openBioClip} from '../dist/core/clip.js';
import {makeBundle, makeLitert, readerOf, SIZE, writeBundle} from './fixture.js';
import {standInOf} from './tflite.js';

const asset = `export class Asset {
  constructor(module) { this.module = module; this.localUri = null; }
  static fromModule(module) { return new Asset(module); }
  async downloadAsync() { this.localUri = globalThis.metro[this.module]; return this; }
}`;
const source = (code) => `data:text/javascript,${encodeURIComponent(code)}`;
register(
  source(`export const resolve = (name, context, next) =>
    name === 'expo-asset' ? {url: ${JSON.stringify(source(asset))}, shortCircuit: true} : next(name, context);`),
);
const {expoAdapter, readUri} = await import('../dist/native/expo.js');

/** As React Native's: status 0 and the bytes for file: addresses, an error where there is no file. */
globalThis.XMLHttpRequest = class {
  open(_, uri) {
    this.uri = uri;
  }
  send() {
    assert.equal(this.responseType, 'arraybuffer');
    readFile(new URL(this.uri)).then(
      (bytes) => {
        this.status = 0;
        this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
        this.onload();
      },
      () => this.onerror(),
    );
  }
};

const COMMAND = fileURLToPath(new URL('../bin/native.mjs', import.meta.url));
const run = (...args) => promisify(execFile)(process.execPath, [COMMAND, ...args]);
let folder;

before(async () => {
  await tf.setBackend('cpu');
  folder = await mkdtemp(path.join(tmpdir(), 'native-'));
  await writeBundle(path.join(folder, 'bundle'));
});
after(() => rm(folder, {recursive: true}));

/** What Metro makes of the folder that bioclip-native wrote: assets become numbers, JSON becomes objects. */
async function bundled(bundle = 'bundle') {
  const target = path.join(folder, `assets of ${bundle}`);
  await run(path.join(folder, bundle), target);
  globalThis.metro = [];
  const json = {'./bundle.json': JSON.parse(await readFile(path.join(target, 'bundle.json'), 'utf8'))};
  const require = (name) => json[name] ?? globalThis.metro.push(pathToFileURL(path.join(target, name)).href) - 1;
  const module = {};
  new Function('module', 'require', await readFile(path.join(target, 'index.js'), 'utf8'))(module, require);
  for (const uri of globalThis.metro) {
    assert.match(uri, /\.bin$/); // one kind of asset to tell Metro of
    await access(new URL(uri));
  }
  return module.exports;
}

const jpeg = async (colour, orientation = 1) =>
  new Uint8Array(
    await sharp({create: {width: 24, height: 16, channels: 3, background: colour}})
      .withMetadata({orientation})
      .jpeg({quality: 95})
      .toBuffer(),
  );

test('a bundle in an application classifies the photographs of its camera', async () => {
  const adapter = expoAdapter(await bundled());
  const progress = [];
  const clip = await loadBioClip(adapter, {
    backend: 'cpu',
    onProgress: ({loaded, total}) => progress.push(loaded / total),
  });
  assert.equal(clip.backend, 'cpu');
  assert.equal(progress.at(-1), 1);

  const photo = path.join(folder, 'photo.jpg');
  await writeFile(photo, await jpeg('#ff0000'));
  const {answer} = await clip.classifyJpeg(new Uint8Array(await readUri(pathToFileURL(photo).href)), {topK: 1});
  assert.deepEqual([answer.name, answer.commonNames.de], ['Morus bassanus', 'Basstölpel']);

  const embedding = await clip.embedJpeg(await jpeg('#0000ff'));
  assert.ok(Math.abs(Math.hypot(...embedding) - 1) < 1e-6 && embedding[2] > 0.9);
  clip.dispose();
  await assert.rejects(clip.classifyJpeg(await jpeg('#0000ff')), /disposed/);
});

test('what is wrong is named', async () => {
  const given = await bundled();
  const [name] = Object.keys(given.files);
  const without = {...given, files: Object.fromEntries(Object.entries(given.files).filter(([key]) => key !== name))};
  await assert.rejects(loadBioClip(expoAdapter(without)), (error) => error.message.includes(name));
  await writeFile(new URL(globalThis.metro[given.files[name]]), 'damaged');
  await assert.rejects(loadBioClip(expoAdapter(given)), (error) => error.message.includes(name));
  await assert.rejects(readUri(pathToFileURL(path.join(folder, 'nothing')).href), /nothing cannot be read/);
  await assert.rejects(loadBioClip(expoAdapter(await bundled()), {backend: 'rn-webgl'}), /rn-webgl/);

  const clip = await loadBioClip(expoAdapter(await bundled()));
  await assert.rejects(clip.classifyJpeg(new Uint8Array([0x89, 0x50, 0x4e, 0x47])), /no JPEG/);
  await assert.rejects(clip.classifyJpeg((await jpeg('#00ff00')).slice(0, 300)), /cannot be decoded/);
  clip.dispose();
});

test('photographs are turned upright, as their Exif data says', async () => {
  const pixels = Uint8Array.from({length: 3 * 2 * 3}, (_, i) => 11 * i);
  for (let orientation = 1; orientation <= 8; orientation++) {
    const raw = {width: 3, height: 2, channels: 3};
    const stored = sharp(pixels, {raw}).withMetadata({orientation});
    assert.equal(exifOrientation(await stored.clone().jpeg().toBuffer()), orientation);
    const {data, info} = await sharp(await stored.png().toBuffer())
      .autoOrient()
      .raw()
      .toBuffer({resolveWithObject: true});
    const found = upright({data: pixels, width: 3, height: 2}, orientation);
    assert.deepEqual([found.width, found.height, [...found.data]], [info.width, info.height, [...data]]);
  }
  const plain = await sharp(pixels, {raw: {width: 3, height: 2, channels: 3}})
    .jpeg()
    .toBuffer();
  assert.equal(exifOrientation(plain), 1);
  for (const length of [2, 5, 20, 40]) assert.equal(exifOrientation(plain.subarray(0, length)), 1);
});

test('an adapter of another kind needs two functions', async () => {
  const {bundle, files} = makeBundle();
  const json = new TextEncoder().encode(JSON.stringify(bundle));
  const decodeJpeg = async () => ({data: new Uint8Array([0, 255, 0]), width: 1, height: 1});
  const clip = await loadBioClip({readFile: async (name) => files[name] ?? json, decodeJpeg});
  const {taxa} = await clip.classifyJpeg(new Uint8Array([0xff, 0xd8, 0xff, 0xd9]));
  assert.equal(taxa[0].name, 'Morus alba');
  clip.dispose();
});

test('LiteRT answers as TensorFlow.js does, from the same photographs', async () => {
  const {made, name} = makeLitert();
  const {asked, tflite} = standInOf(SIZE);
  const photo = path.join(folder, 'leaf.jpg');
  await writeFile(photo, await jpeg('#30c020', 6));
  const uri = pathToFileURL(photo).href;
  const web = await loadBioClip(expoAdapter(await bundled()));
  const expected = await web.classifyJpeg(await readFile(photo));

  await writeBundle(path.join(folder, 'litert'), made);
  const clip = await loadBioClip(expoAdapter(await bundled('litert'), {tflite}));
  assert.deepEqual([clip.backend, clip.info.model.file], ['tflite', name]);
  const [[source, delegates]] = asked;
  assert.deepEqual([asked.length, delegates], [1, []]);
  assert.equal(await readFile(new URL(source.url), 'utf8'), 'stands for a model');
  for (const found of [await clip.classifyJpeg(await readFile(photo)), await clip.classifyUri(uri)]) {
    assert.equal(found.answer.name, expected.answer.name);
    found.taxa.forEach((taxon, i) => {
      assert.equal(taxon.name, expected.taxa[i].name);
      assert.ok(Math.abs(taxon.probability - expected.taxa[i].probability) < 1e-5);
    });
  }
  assert.ok(Math.abs(Math.hypot(...(await clip.embedUri(uri))) - 1) < 1e-6);
  clip.dispose();
  await assert.rejects(clip.classifyUri(uri), {code: 'disposed'});
});

test('what is wrong with a model for LiteRT is named', async () => {
  const {made, name} = makeLitert();
  await writeBundle(path.join(folder, 'litert'), made);
  const given = await bundled('litert');
  await assert.rejects(loadBioClip(expoAdapter(given)), {code: 'environment', file: name, message: /fast-tflite/});
  const tflite = async () => {
    throw new Error('no kernel');
  };
  await assert.rejects(loadBioClip(expoAdapter(given, {tflite})), {code: 'backend', message: /no kernel/});
  await assert.rejects(openBioClip(readerOf(made)), {code: 'bundle', file: name, message: /convert\/tfjs/});
  const silent = {...expoAdapter(given, {tflite: async () => ({run: async () => [new ArrayBuffer(12)]})})};
  const clip = await loadBioClip({...silent, readPhotograph: undefined});
  await assert.rejects(clip.classifyUri('file:///a.jpg'), {code: 'argument'});
  await assert.rejects(clip.classifyJpeg(await jpeg('#00ff00')), {code: 'backend', message: /tflite/}); // zeros
});

/** expo-image-manipulator: upright, resized copies in another folder. */
const manipulatorOf = (sizes) => ({
  manipulate(uri) {
    const image = sharp(fileURLToPath(uri)).autoOrient();
    let [wanted, copies] = [null, 0];
    const context = {
      resize(size) {
        wanted = size;
        return context;
      },
      async renderAsync() {
        if (wanted) sizes.push(wanted);
        const {data, info} = await image
          .resize(wanted ?? undefined)
          .jpeg({quality: 100})
          .toBuffer({resolveWithObject: true});
        return {
          width: info.width,
          height: info.height,
          async saveAsync({compress}) {
            assert.equal(compress, 1);
            const copy = path.join(folder, `copy-${copies++}.jpg`);
            await writeFile(copy, data);
            return {uri: pathToFileURL(copy).href};
          },
        };
      },
    };
    return context;
  },
});

test('expo-image-manipulator scales photographs to twice what the model sees', async () => {
  const sizes = [];
  const plain = await loadBioClip(expoAdapter(await bundled()));
  const clip = await loadBioClip(expoAdapter(await bundled(), {manipulator: manipulatorOf(sizes)}));
  const noise = await sharp({
    create: {width: 64, height: 40, channels: 3, noise: {type: 'gaussian', mean: 90, sigma: 50}},
  })
    .withMetadata({orientation: 8})
    .jpeg()
    .toBuffer();
  const photo = path.join(folder, 'large.jpg');
  await writeFile(photo, noise);
  const uri = pathToFileURL(photo).href;
  const [found, expected] = [await clip.embedUri(uri), await plain.embedUri(uri)];
  assert.deepEqual(sizes, [{width: 2 * SIZE}]); // upright it is 40 x 64
  assert.ok(found.reduce((sum, value, i) => sum + value * expected[i], 0) > 0.9995);

  await writeFile(photo, await jpeg('#ff0000')); // 24 x 16: small enough
  assert.equal((await clip.classifyUri(uri)).answer.name, 'Morus bassanus');
  assert.equal(sizes.length, 1);
  await assert.rejects(clip.classifyUri(pathToFileURL(path.join(folder, 'nothing.jpg')).href), {code: 'image'});
});

test('files are read by expo-file-system where XMLHttpRequest may not', async (t) => {
  const given = await bundled();
  const request = globalThis.XMLHttpRequest;
  t.after(() => {
    globalThis.XMLHttpRequest = request;
  });
  globalThis.XMLHttpRequest = class {
    open() {}
    send() {
      this.onerror(); // as Android answers for file: addresses
    }
  };
  await assert.rejects(loadBioClip(expoAdapter(given)), {code: 'unreachable', message: /new File\(uri\).arrayBuffer/});
  const clip = await loadBioClip(expoAdapter(given, {read: (uri) => readFile(new URL(uri))}));
  assert.equal((await clip.classifyJpeg(await jpeg('#ff0000'))).answer.name, 'Morus bassanus');
  clip.dispose();
});

test('an engine without atob, Buffer and a platform of TensorFlow.js loads a model', async (t) => {
  const kept = {atob: globalThis.atob, Buffer: globalThis.Buffer, TextDecoder: globalThis.TextDecoder};
  const {platform} = tf.env();
  t.after(() => {
    Object.assign(globalThis, kept);
    tf.env().platform = platform;
  });
  const {bundle, files} = makeBundle();
  const json = new TextEncoder().encode(JSON.stringify(bundle));
  const decodeJpeg = () => ({data: new Uint8Array([0, 0, 255]), width: 1, height: 1});
  const adapter = {readFile: async (name) => files[name] ?? json, decodeJpeg};
  const start = new Uint8Array([0xff, 0xd8]);
  const expected = await (await loadBioClip(adapter)).classifyJpeg(start);

  Object.assign(globalThis, {atob: undefined, Buffer: undefined});
  tf.env().platform = null;
  const clip = await loadBioClip(adapter);
  assert.deepEqual(await clip.classifyJpeg(start), expected);
  for (const text of ['', 'a', 'ab', 'abc', 'Conv2D\xff']) assert.equal(globalThis.atob(btoa(text)), text);

  globalThis.TextDecoder = undefined;
  await assert.rejects(loadBioClip(adapter), {code: 'environment', message: /no TextDecoder/});
});

test('a bundle whose file names lead out of the folder is not copied', async () => {
  const outside = path.join(folder, 'outside');
  const made = makeBundle();
  const [name] = Object.keys(made.files);
  const {[name]: file, ...others} = made.bundle.files;
  await writeBundle(outside, {bundle: {...made.bundle, files: {...others, '../escaped.bin': file}}, files: made.files});
  await writeFile(path.join(folder, 'escaped.bin'), made.files[name]);
  const target = path.join(folder, 'app', 'assets');
  await assert.rejects(run(outside, target), ({code, stderr}) => code === 1 && stderr.includes('"../escaped.bin"'));
  await assert.rejects(access(path.join(folder, 'app')));
});

test('bioclip-native replaces its own files, and no types of others', async () => {
  const target = path.join(folder, 'typed');
  const types = path.join(target, 'index.d.ts');
  for (let times = 0; times < 2; times++) await run(path.join(folder, 'bundle'), target);
  assert.match(await readFile(types, 'utf8'), /BundledFiles/);
  await writeFile(types, 'export const mine: 1;');
  await assert.rejects(run(path.join(folder, 'bundle'), target), ({stderr}) =>
    stderr.includes('index.d.ts exists there'),
  );
  assert.equal(await readFile(types, 'utf8'), 'export const mine: 1;');
});

test('bioclip-native explains itself', async () => {
  await assert.rejects(run(), ({code, stderr}) => code === 2 && /usage/.test(stderr));
  const isClear = ({code, stderr}) => code === 1 && /nowhere/.test(stderr) && !/ at /.test(stderr);
  await assert.rejects(run('nowhere', path.join(folder, 'x')), isClear);
  assert.ok(!(await readdir(folder)).includes('x'));
});
