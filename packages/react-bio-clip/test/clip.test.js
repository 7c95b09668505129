import assert from 'node:assert/strict';
import {mkdtemp, rm} from 'node:fs/promises';
import {createHash, generateKeyPairSync, sign} from 'node:crypto';
import {createServer} from 'node:http';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {before, test} from 'node:test';

import * as tf from '@tensorflow/tfjs-core';

import {downloadBundle} from '../dist/core/bundle.js';
import {loadFolder, startNodeBackend} from '../dist/core/node.js';
import {addressOf, originOf} from '../dist/core/origin.js';
import {fetchReader, loadBioClip, loadTextEncoder} from '../dist/index.js';
import {assertCancellable, makeBundle, makeText, plain, readerOf, SIZE, TAXA, writeBundle} from './fixture.js';

const MADE = makeBundle();
const RED = plain([255, 0, 0]);
const GREEN = plain([0, 255, 0]);

before(() => startNodeBackend('wasm')); // Node's WebAssembly files; a page gives wasmPaths

const load = (options, source = MADE) => loadBioClip(source, {backend: 'wasm', ...options});

test('pixels in, taxa out', async () => {
  const clip = await load();
  const {taxa, ranks, answer} = await clip.classify(RED, {topK: 2});
  assert.deepEqual(
    taxa.map(({name}) => name),
    ['Morus bassanus', 'Morus nigra'],
  );
  assert.deepEqual([answer.name, answer.rank, answer.id], ['Morus bassanus', 'species', TAXA[0].id]);
  assert.equal(ranks.class.name, 'Aves');
  const total = (await clip.classify(RED)).taxa.reduce((sum, {probability}) => sum + probability, 0);
  assert.ok(Math.abs(total - 1) < 1e-12);
  const vector = await clip.embed(GREEN);
  assert.deepEqual(
    [...vector].map((v) => Math.round(v * 1e6) / 1e6),
    [0, 1, 0],
  );
  clip.dispose();
});

test('several photographs of one observation make one answer', async () => {
  const clip = await load();
  const said = async (images) => (await clip.classify(images, {topK: 9})).taxa;
  const alone = await Promise.all([RED, GREEN].map(said));
  assert.deepEqual(await said([RED]), alone[0]);
  // The mean of log-probabilities, made to sum to one.
  const of = (taxa, id) => taxa.find((taxon) => taxon.id === id).probability;
  const means = alone[0].map(({id}) => [id, Math.sqrt(of(alone[0], id) * of(alone[1], id))]);
  const total = means.reduce((sum, [, value]) => sum + value, 0);
  const together = await said([RED, GREEN]);
  for (const [id, value] of means) assert.ok(Math.abs(of(together, id) - value / total) < 1e-6);
  const turned = await said([GREEN, RED]);
  for (const {id, probability} of together) assert.ok(Math.abs(of(turned, id) - probability) < 1e-9);
  await assert.rejects(clip.classify([]), {code: 'argument', message: /empty list/});
  clip.dispose();
});

test('the temperature of the bundle makes answers less sure', async () => {
  const sure = await load();
  const unsure = await load({}, makeBundle({temperature: 20}));
  const [one, other] = [await sure.classify(RED), await unsure.classify(RED)];
  assert.equal(one.taxa[0].id, other.taxa[0].id);
  assert.ok(other.taxa[0].probability < one.taxa[0].probability - 0.3);
  sure.dispose();
  unsure.dispose();
});

test('image data, tensors and pixels of one image give one answer', async () => {
  const clip = await load();
  const values = Uint8ClampedArray.from({length: 12 * 10 * 3}, (_, i) => (i * 37) % 256);
  const rgba = new Uint8ClampedArray(12 * 10 * 4).fill(9);
  for (let i = 0; i < 120; i++) rgba.set(values.subarray(3 * i, 3 * i + 3), 4 * i);
  const whole = tf.tensor3d(Array.from(values), [10, 12, 3], 'int32');
  const unit = tf.tensor3d(
    Array.from(values, (v) => v / 255),
    [10, 12, 3],
    'float32',
  );
  const wanted = await clip.embed({data: values, width: 12, height: 10});
  for (const image of [{data: rgba, width: 12, height: 10}, whole, unit])
    assert.deepEqual(await clip.embed(image), wanted);
  assert.equal(whole.isDisposed, false); // the caller's
  tf.dispose([whole, unit]);
  clip.dispose();
});

test('a thousand images leave no memory behind, and dispose gives back what load took', async () => {
  const empty = tf.memory();
  const clip = await load();
  await clip.classify(RED);
  const {numTensors, numBytes, numDataBuffers} = tf.memory();
  for (let i = 0; i < 1000; i++) await clip.classify(plain([i % 256, (i * 7) % 256, 128]));
  const after = tf.memory();
  assert.deepEqual([after.numTensors, after.numBytes, after.numDataBuffers], [numTensors, numBytes, numDataBuffers]);
  clip.dispose();
  assert.deepEqual([tf.memory().numTensors, tf.memory().numBytes], [empty.numTensors, empty.numBytes]);
});

test('calls that overlap are each answered for their own image', async () => {
  const clip = await load();
  const answers = await Promise.all(Array.from({length: 20}, (_, i) => clip.classify(i % 2 ? RED : GREEN)));
  for (const [i, {taxa}] of answers.entries()) assert.equal(taxa[0].name, i % 2 ? 'Morus bassanus' : 'Morus alba');
  clip.dispose();
});

test('a call can be cancelled, before and while it waits; the others go on', async () => {
  const clip = await load();
  await assert.rejects(clip.classify(RED, {signal: AbortSignal.abort()}), {name: 'AbortError'});
  const stop = new AbortController();
  const calls = [clip.classify(RED), clip.classify(RED, {signal: stop.signal}), clip.classify(GREEN)];
  stop.abort(new Error('enough'));
  const found = await Promise.allSettled(calls);
  assert.deepEqual(
    found.map(({status}) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
  assert.equal(found[1].reason.message, 'enough');
  clip.dispose();
});

test('loading can be cancelled and leaves nothing', async () => {
  await assertCancellable(load, readerOf(MADE), 'bundle.json');
});

test('the query of an address, such as a signature, is sent with every file and told to nobody', async (t) => {
  const text = makeText();
  const all = {
    ...MADE.files,
    ...text.files,
    'bundle.json': JSON.stringify(MADE.bundle),
    'text.json': JSON.stringify(text.text),
  };
  const asked = [];
  const server = createServer((request, response) => {
    const {pathname, search} = new URL(request.url, 'http://localhost');
    asked.push(pathname);
    const file =
      path.posix.dirname(pathname) === '/m' && search === '?sig=a/b%3D&v=1' ? all[path.posix.basename(pathname)] : null;
    response.writeHead(file ? 200 : 403).end(file ? Buffer.from(file) : '');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const base = `http://127.0.0.1:${server.address().port}/m`;
  const signed = '?sig=a/b%3D&v=1';
  for (const source of [`${base}/${signed}`, `${base}${signed}`, new URL(`${base}/${signed}#top`)]) {
    const clip = await loadBioClip(source);
    assert.equal((await clip.classify(RED)).taxa[0].name, 'Morus bassanus');
    clip.dispose();
    const encoder = await loadTextEncoder(source, {for: MADE.bundle});
    assert.equal((await encoder.embed(['abc']))[0].length, 3);
    encoder.dispose();
    const read = fetchReader(source);
    assert.equal(new TextDecoder().decode(await read('bundle.json')), all['bundle.json']);
  }
  await assert.rejects(loadBioClip(`${base}/?sig=stale`), (error) => {
    assert.match(error.message, /\/m\/bundle.json: HTTP status 403$/);
    return true;
  });
  assert.ok(asked.every((pathname) => /^\/m\/[^/]+$/.test(pathname)));
  assert.equal(addressOf('https://a.org/wasm/?sig=1', 'x.wasm'), 'https://a.org/wasm/x.wasm?sig=1');
  assert.equal(addressOf('/wasm/v1-', 'x.wasm'), '/wasm/v1-x.wasm'); // a prefix, as for setWasmPaths
});

test('progress counts the bytes up to the total that bundle.json states', async () => {
  const seen = [];
  const clip = await load({onProgress: (progress) => seen.push(progress)});
  assert.ok(seen.every(({total}) => total === MADE.bundle.bytes));
  assert.ok(seen.every(({loaded}, i) => i === 0 || loaded > seen[i - 1].loaded));
  assert.equal(seen.at(-1).loaded, MADE.bundle.bytes);
  clip.dispose();
});

test('after dispose nothing is answered, not even what waits', async () => {
  const clip = await load();
  const waiting = clip.classify(RED);
  clip.dispose();
  clip.dispose();
  await assert.rejects(waiting, /disposed of/);
  await assert.rejects(clip.embed(RED), /disposed of/);
});

test('options that make no sense are named', async () => {
  const clip = await load();
  await assert.rejects(clip.classify(RED, {topK: 0}), /topK is 0/);
  await assert.rejects(clip.classify(RED, {rank: 'tribe'}), /rank is tribe; this bundle has the ranks kingdom, /);
  await assert.rejects(clip.classify(RED, {minConfidence: 95}), /minConfidence is 95/);
  await assert.rejects(clip.classify({}), /not an image/);
  await assert.rejects(clip.classify({data: new Uint8Array(5), width: 1, height: 1}), /1 x 1 pixels and 5 bytes/);
  await assert.rejects(clip.classify(tf.zeros([2, 2])), /the tensor has shape 2 x 2/);
  await assert.rejects(load({threads: 0}), {code: 'argument', message: /threads is 0/});
  clip.dispose();
  await assert.rejects(load({backend: 'webgl'}), /no backend webgl here: import '@tensorflow\/tfjs-backend-webgl'/);
});

test('a bundle that is damaged is refused, and the file is named', async () => {
  const weights = Object.keys(MADE.files).find((name) => name.startsWith('weights'));
  const flipped = MADE.files[weights].slice();
  flipped[20] ^= 1;
  const refused = (replace, message, file) =>
    assert.rejects(load({}, readerOf(MADE, replace)), (error) => {
      assert.match(error.message, message);
      assert.deepEqual([error.name, error.file], ['BioClipError', file]);
      return true;
    });
  await refused({[weights]: flipped}, /weights-.*\.bin of the bundle has SHA-256 .*damaged or changed/, weights);
  await refused({[weights]: flipped.subarray(1)}, /has 43 bytes, bundle.json says 44: .*incomplete/, weights);
  const text = (value) => ({'bundle.json': new TextEncoder().encode(value)});
  await refused(text('<!doctype html>'), /no JSON/, 'bundle.json');
  await refused(text(JSON.stringify({...MADE.bundle, format: 1})), /format 1.*reads format 2/, 'bundle.json');
  await refused(text(JSON.stringify({...MADE.bundle, files: {}})), /does not list taxa-/, 'bundle.json');
  await assert.rejects(load({}, {...MADE, files: {}}), /is not among the files given/);
  const {bundle, files} = makeBundle({taxa: TAXA.slice(1)});
  await assert.rejects(load({}, {bundle, files}), /lists 3 taxa.*do not belong together/);
});

test('names of files stay in the folder, or none is read', async () => {
  const [name, ...others] = Object.keys(MADE.bundle.files);
  for (const strange of ['../x.bin', '/x.bin', 'a/b.bin', 'a\\b.bin', '..', '', 'x.bin?y', 'x bin', 'x\n']) {
    const files = Object.fromEntries([strange, name, ...others].map((key) => [key, MADE.bundle.files[key] ?? {}]));
    const read = readerOf({...MADE, bundle: {...MADE.bundle, files}});
    const only = (asked) => (asked === 'bundle.json' ? read(asked) : assert.fail(`asked for ${asked}`));
    await assert.rejects(load({}, only), (error) => {
      assert.equal(error.code, 'bundle');
      assert.ok(error.message.includes(JSON.stringify(strange)), error.message);
      return true;
    });
  }
  await assert.rejects(
    load({}, {...MADE, bundle: {...MADE.bundle, model: {file: 'toString'}}}),
    /does not list toString/,
  );
});

test('a bundle.json that is not the one asked for is refused before its files are read', async () => {
  const read = readerOf(MADE);
  const integrity = createHash('sha256')
    .update(await read('bundle.json'))
    .digest('hex');
  for (const same of [integrity, integrity.toUpperCase()]) (await load({integrity: same}, read)).dispose();
  const only = (asked) => (asked === 'bundle.json' ? read(asked) : assert.fail(`asked for ${asked}`));
  const other = integrity.replace(/^./, (digit) => (digit === '0' ? '1' : '0'));
  await assert.rejects(load({integrity: other}, only), {code: 'integrity', file: 'bundle.json'});
  await assert.rejects(load({integrity: 'sha256-AAAA'}, read), {code: 'argument'});
  const text = makeText();
  await assert.rejects(loadTextEncoder(readerOf(text), {integrity}), {code: 'integrity', file: 'text.json'});
});

test('with a key, one changed byte in any file of a signed bundle is refused', async () => {
  const pem = ({publicKey}) => publicKey.export({type: 'spki', format: 'pem'});
  const [pair, other] = [generateKeyPairSync('ed25519'), generateKeyPairSync('ed25519')];
  const text = await readerOf(MADE)('bundle.json');
  const files = {...MADE.files, 'bundle.json': text, 'bundle.json.sig': sign(null, text, pair.privateKey)};
  const read = async (replace, options) =>
    downloadBundle(await originOf(readerOf(MADE, {...files, ...replace})), options);
  const publicKey = pem(pair);
  (await load({publicKey}, readerOf(MADE, files))).dispose();
  for (const [name, content] of Object.entries(files)) {
    for (const place of [0, content.length >> 1, content.length - 1]) {
      const changed = Uint8Array.from(content);
      changed[place] ^= 1;
      const code = name.startsWith('bundle.json') ? 'signature' : 'damaged';
      await assert.rejects(read({[name]: changed}, {publicKey}), {code}, `${name}, byte ${place}`);
    }
  }
  await assert.rejects(read({}, {publicKey: pem(other)}), {code: 'signature', file: 'bundle.json.sig'});
  for (const wrong of [new Uint8Array(), new Uint8Array(64), Buffer.from('<!doctype html>')])
    await assert.rejects(read({'bundle.json.sig': wrong}, {publicKey}), {code: 'signature'});
  const rsa = pem(generateKeyPairSync('rsa', {modulusLength: 1024}));
  for (const key of ['', 'x', rsa, publicKey.replace('PUBLIC', 'PRIVATE')])
    await assert.rejects(read({}, {publicKey: key}), {code: 'argument'});
  await assert.rejects(load({publicKey}), {code: 'argument'}); // a parsed bundle.json has no bytes that were signed
  await assert.rejects(load({publicKey}, readerOf(MADE)), /bundle.json.sig is missing/);
  const encoder = readerOf(makeText(), {'text.json.sig': files['bundle.json.sig']});
  await assert.rejects(loadTextEncoder(encoder, {publicKey}), {code: 'signature', file: 'text.json.sig'});
  const asked = [];
  await downloadBundle(await originOf((name) => asked.push(name) && readerOf(MADE, files)(name)));
  assert.ok(!asked.includes('bundle.json.sig')); // without a key nothing is different
});

test('an engine without Ed25519 says so', async (t) => {
  const publicKey = generateKeyPairSync('ed25519').publicKey.export({type: 'spki', format: 'pem'});
  const read = readerOf(MADE, {'bundle.json.sig': new Uint8Array(64)});
  const unknown = () => Promise.reject(Object.assign(new Error('Unrecognized name.'), {name: 'NotSupportedError'}));
  const mocked = t.mock.method(crypto.subtle, 'importKey', unknown);
  await assert.rejects(load({publicKey}, read), {code: 'environment'});
  mocked.mock.restore();
  t.mock.getter(globalThis.crypto, 'subtle', () => undefined);
  await assert.rejects(load({publicKey}, read), {code: 'environment', message: /React Native/});
});

test('a tensor of another scale or type is refused, one whose filter overshot is not', async () => {
  const clip = await load();
  const fill = (value, dtype) => tf.fill([4, 4, 3], value, dtype);
  for (const tensor of [fill(200, 'float32'), fill(-1, 'float32'), fill(NaN, 'float32'), fill(65535, 'int32')]) {
    await assert.rejects(clip.classify(tensor), {code: 'image', message: /^the tensor has the value/});
  }
  await assert.rejects(clip.classify(fill(1, 'bool')), {code: 'image', message: /type bool/});
  const white = await clip.embed(fill(1, 'float32'));
  assert.deepEqual(await clip.embed(fill(1.2, 'float32')), white);
  assert.deepEqual(await clip.embed(fill(255, 'int32')), white);
  clip.dispose();
});

test('without SubtleCrypto the hashes are checked as well', async () => {
  const found = Object.getOwnPropertyDescriptor(globalThis, 'crypto');
  Object.defineProperty(globalThis, 'crypto', {value: {}, configurable: true});
  try {
    (await load()).dispose();
    const bad = Object.fromEntries(Object.entries(MADE.files).map(([name, bytes]) => [name, bytes.map((b) => b ^ 1)]));
    await assert.rejects(load({}, {...MADE, files: bad}), /damaged or changed/);
  } finally {
    Object.defineProperty(globalThis, 'crypto', found);
  }
});

test('a folder on disk, on both backends of Node', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'bundle-'));
  try {
    await writeBundle(folder);
    for (const backend of ['wasm', 'cpu']) {
      const clip = await loadFolder(folder, {backend});
      assert.equal((await clip.classify(plain([0, 0, 255], SIZE, SIZE))).answer.name, 'Ficus');
      clip.dispose();
    }
    await rm(path.join(folder, 'bundle.json'));
    await assert.rejects(loadFolder(folder), /bundle\.json cannot be read/);
  } finally {
    await rm(folder, {recursive: true});
  }
});
