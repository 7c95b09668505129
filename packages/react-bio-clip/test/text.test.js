import assert from 'node:assert/strict';
import {spawnSync} from 'node:child_process';
import {mkdtemp, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {before, test} from 'node:test';
import {fileURLToPath} from 'node:url';

import * as tf from '@tensorflow/tfjs-core';
import {build} from 'esbuild';

import {startNodeBackend} from '../dist/core/node.js';
import {tokenizerOf} from '../dist/core/tokenizer.js';
import {compareTexts, loadBioClip, loadTextEncoder} from '../dist/index.js';
import {assertCancellable, CONTEXT, makeBundle, makeText, MERGES, readerOf, writeBundle} from './fixture.js';

const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
const MADE = makeText();
const [START, END] = [517, 518];
const TOKENIZER = tokenizerOf(MERGES.join('\n'));

before(() => startNodeBackend('wasm'));

const load = (options, source = MADE) => loadTextEncoder(source, {backend: 'wasm', ...options});
const close = (vector, wanted) => {
  assert.equal(vector.length, wanted.length);
  for (const [i, value] of vector.entries()) {
    assert.ok(Math.abs(value - wanted[i]) < 1e-6, `${[...vector]} is not ${wanted}`);
  }
};

/** The tokens between the start and the end. */
const split = (text) => {
  const tokens = TOKENIZER.tokenize(text, 77);
  assert.deepEqual([tokens.length, tokens[0]], [77, START]);
  const padding = tokens.findLastIndex((token) => token !== 0);
  assert.equal(tokens[padding], END);
  return tokens.slice(1, padding);
};

test('neighbours are merged by rank, from the left, within words', () => {
  // a, b, c are 64, 65, 66, and 256 more at the end of a word
  assert.deepEqual(split('a'), [320]);
  assert.deepEqual(split('aab'), [64, 64, 321]); // "a b" is no merge of an a with a b that ends the word
  assert.deepEqual(split('bc'), [513]);
  assert.deepEqual(split('abc'), [514]); // a b before b c</w>, which goes by rank
  assert.deepEqual(split('ababc'), [512, 514]); // ab c</w> before ab ab
  assert.deepEqual(split('abababx'), [515, 512, 343]); // from the left
  assert.deepEqual(split('ab c abc'), [64, 321, 322, 514]);
  assert.deepEqual(split(''), []);
});

test('words are letters, single digits, what follows an apostrophe, and the rest', () => {
  assert.deepEqual(split('12'), [272, 273]);
  assert.deepEqual(split("a'll"), [320, 6, 516]); // 'll is a word: an apostrophe and ll</w>
  assert.deepEqual(split("A'S"), split("a's"));
  assert.deepEqual(split("a'b"), [320, 262, 321]);
  assert.deepEqual(split('a-(b)'), [320, 12, 263, 321, 264]);
  assert.deepEqual(split(' ABC\t\n\u3000abc'), [514, 514]);
  assert.deepEqual(split('é'), [127, 358]); // bytes C3 A9
  assert.deepEqual(split(' \0'), []);
  assert.deepEqual(split('\u0080'), [126, 256 + 222]); // C2 80: the 188 bytes that print come first
});

test('texts are cleaned as open_clip does', () => {
  const same = (one, other) => assert.deepEqual(split(one), split(other), `${one} is not ${other}`);
  same('a &amp;amp; b &#38; &#x26;', 'a & b & &');
  same('&lt;a&gt; &quot;b&quot; &apos;c&apos; &ampere;', '<a> "b" \'c\' &ampere;');
  same('&#0;&#xD800;&#1114112;', '\ufffd\ufffd\ufffd');
  same('e\u0301', 'é');
  same('’s “a”', '\'s "a"');
  same('ﬁ Ａｂ ｶﾞ', 'fi ab ガ');
  same('a\ufeffb\u0007', 'ab');
});

test('what is too long is cut before the end; special tokens in a text are those tokens', () => {
  assert.deepEqual(TOKENIZER.tokenize('a b c a b', 5), [START, 320, 321, 322, END]);
  assert.deepEqual(TOKENIZER.tokenize('a b c', 5), [START, 320, 321, 322, END]);
  assert.deepEqual(TOKENIZER.tokenize('a b', 5), [START, 320, 321, END, 0]);
  assert.deepEqual(TOKENIZER.tokenize('abab'.repeat(30_000), 4), [START, 515, 515, END]);
  assert.deepEqual(TOKENIZER.tokenize('a<END_of_text>b', 6), [START, 320, END, 321, END, 0]);
});

test('merges that name what was not made before are refused', () => {
  assert.throws(
    () => tokenizerOf('a b\nab cd', 'merges-1.txt'),
    /line 2 of merges-1\.txt is no pair of earlier tokens: ab cd/,
  );
  assert.throws(() => tokenizerOf('#version: 0.2\na b'), /line 1 of the merges/);
});

test('texts in, unit vectors out, from the place of the end', async () => {
  const encoder = await load();
  const texts = ['', 'abc', 'abc bc', 'a b c', 'a b c a b c a b c', 'a <end_of_text> c'];
  const vectors = await encoder.embed(texts);
  vectors.forEach((vector, i) => {
    assert.ok(vector instanceof Float32Array);
    assert.ok(Math.abs(Math.hypot(...vector) - 1) < 1e-6);
    close(vector, MADE.embed(TOKENIZER.tokenize(texts[i], CONTEXT)));
  });
  assert.equal(new Set(vectors.map(String)).size, texts.length);
  assert.deepEqual(await encoder.embed([]), []);
  assert.deepEqual([encoder.backend, encoder.info.context], ['wasm', CONTEXT]);
  await assert.rejects(encoder.embed('abc'), /not a list of texts/);
  await assert.rejects(encoder.embed([1]), /not a list of texts/);
  encoder.dispose();
});

test('a model that hides padding is told where the text ends', async () => {
  const made = makeText({}, {hides: true});
  const encoder = await load({}, made);
  const texts = ['', 'abc', 'a b c a b c a b c', 'a <end_of_text> c'];
  const vectors = await encoder.embed(texts);
  for (const [i, vector] of vectors.entries()) close(vector, made.embed(TOKENIZER.tokenize(texts[i], CONTEXT)));
  encoder.dispose();
});

test('two hundred texts leave no memory behind, and dispose gives back what load took', async () => {
  const empty = tf.memory();
  const encoder = await load();
  await encoder.embed(['abc']);
  const {numTensors, numBytes, numDataBuffers} = tf.memory();
  await encoder.embed(Array.from({length: 200}, (_, i) => `abc ${i}`));
  const after = tf.memory();
  assert.deepEqual([after.numTensors, after.numBytes, after.numDataBuffers], [numTensors, numBytes, numDataBuffers]);
  encoder.dispose();
  assert.deepEqual([tf.memory().numTensors, tf.memory().numBytes], [empty.numTensors, empty.numBytes]);
});

test('calls that overlap are each answered for their own texts, beside those of a classifier', async () => {
  const [encoder, clip] = await Promise.all([load(), loadBioClip(makeBundle())]);
  const texts = Array.from({length: 9}, (_, i) => 'abc '.repeat(i % 4));
  const image = {data: new Uint8Array([255, 0, 0]), width: 1, height: 1};
  const [found] = await Promise.all([Promise.all(texts.map((text) => encoder.embed([text, 'bc']))), clip.embed(image)]);
  const bc = MADE.embed(TOKENIZER.tokenize('bc', CONTEXT));
  for (const [i, [own, other]] of found.entries()) {
    close(own, MADE.embed(TOKENIZER.tokenize(texts[i], CONTEXT)));
    close(other, bc);
  }
  encoder.dispose();
  clip.dispose();
});

test('a call can be cancelled, before and between two texts; the others go on', async () => {
  const encoder = await load();
  await assert.rejects(encoder.embed(['a'], {signal: AbortSignal.abort()}), {name: 'AbortError'});
  const stop = new AbortController();
  const many = encoder.embed(Array(100_000).fill('abc'), {signal: stop.signal});
  const other = encoder.embed(['a', 'b']);
  setTimeout(() => stop.abort(new Error('enough')), 20);
  await assert.rejects(many, /^Error: enough$/);
  assert.equal((await other).length, 2);
  encoder.dispose();
});

test('after dispose nothing is answered, not even what has begun', async () => {
  const encoder = await load();
  const waiting = encoder.embed(['a', 'b', 'c']);
  setTimeout(() => encoder.dispose());
  await assert.rejects(waiting, /this text encoder has been disposed of/);
  encoder.dispose();
  await assert.rejects(encoder.embed(['a']), /disposed of/);
});

test('loading can be cancelled and leaves nothing; progress counts the bytes', async () => {
  await assertCancellable(load, readerOf(MADE), 'text.json');
  const seen = [];
  (await load({onProgress: (progress) => seen.push(progress)})).dispose();
  assert.deepEqual(seen.at(-1), {loaded: MADE.text.bytes, total: MADE.text.bytes});
});

test('an encoder that is damaged or does not fit together is refused, and the file is named', async () => {
  const refused = async (message, file, source) =>
    assert.rejects(load({}, source), (error) => {
      assert.match(error.message, message);
      assert.deepEqual([error.name, error.file], ['BioClipError', file]);
      return true;
    });
  const [first] = MADE.text.tokens.files;
  const flipped = MADE.files[first].slice();
  flipped[20] ^= 1;
  await refused(
    /tokens-0-.* of the text encoder has SHA-256 .*, text\.json says .*changed/,
    first,
    readerOf(MADE, {[first]: flipped}),
  );
  const text = (changes) => makeText(changes);
  await refused(/text\.json in the text encoder has format 2; .* reads format 1/, 'text.json', text({format: 2}));
  await refused(/text\.json does not list merges-/, 'text.json', text({merges: {file: 'merges-1.txt'}}));
  const tokens = {...MADE.text.tokens};
  await refused(/holds numbers of type float16/, first, text({tokens: {...tokens, dtype: 'float16'}}));
  await refused(
    /has 4152 bytes for 518 x 4 numbers; merges-.* makes 519 tokens/,
    first,
    text({tokens: {...tokens, rows: 518}}),
  );
  await refused(/vectors of 8 numbers: they do not belong together/, first, text({context: 3}));
  const encoder = await load({}, text({embedding: 2}));
  await assert.rejects(encoder.embed(['a']), /gives 18 numbers for 6 tokens, not 2 for each/);
  encoder.dispose();
  await assert.rejects(load({}, makeBundle()), /text\.json is not among the files given/);
});

test('an encoder for a bundle of another teacher is refused before its files are read', async () => {
  const asked = [];
  const source = (name) => {
    asked.push(name);
    return readerOf(MADE)(name);
  };
  const {bundle} = makeBundle({provenance: {teacher_identity: 'another'}});
  await assert.rejects(load({for: bundle}, source), /of teacher tiny \(3 numbers\), the bundle of teacher another/);
  await assert.rejects(load({for: makeBundle({provenance: {}}).bundle}, source), /cannot be compared/);
  assert.deepEqual(asked, ['text.json', 'text.json']);
  (await load({for: makeBundle().bundle})).dispose();
});

test('compareTexts is the softmax of scaled cosines', () => {
  const {bundle} = makeBundle({logit_scale: 10, temperature: 2});
  const vectors = [
    [1, 0, 0],
    [0, 1, 0],
    [0.6, 0.8, 0],
  ].map((vector) => Float32Array.from(vector));
  const found = compareTexts(Float32Array.of(0, 1, 0), vectors, bundle);
  assert.ok(Array.isArray(found));
  assert.ok(Math.abs(found.reduce((sum, value) => sum + value) - 1) < 1e-12);
  const powers = [0, 5, 4].map(Math.exp);
  close(
    found,
    powers.map((power) => power / (powers[0] + powers[1] + powers[2])),
  );
  assert.deepEqual(compareTexts(vectors[0], [], bundle), []);
  assert.throws(() => compareTexts(Float32Array.of(1, 0), vectors, bundle), /the embedding has 2 numbers; .* have 3/);
  assert.throws(() => compareTexts(vectors[0], [Float32Array.of(1, 0)], bundle), /the embedding has 2 numbers/);
});

test('who loads a bundle alone gets no tokenizer', async () => {
  const bundled = async (names) => {
    const stdin = {contents: `export {${names}} from 'react-bio-clip';`, resolveDir: PACKAGE};
    const external = ['@tensorflow/*', '@noble/*'];
    const {outputFiles} = await build({stdin, bundle: true, format: 'esm', write: false, external});
    return outputFiles[0].text;
  };
  assert.match(await bundled('loadTextEncoder'), /end_of_text/);
  assert.doesNotMatch(await bundled('loadBioClip, loadInWorker'), /end_of_text|tokenizerOf|openTextEncoder/);
  assert.doesNotMatch(await bundled('compareTexts'), /end_of_text|plantTree|loadGraphModel\(/);
});

test('bin/text.mjs prints tokens and embeddings', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'text-'));
  try {
    await writeBundle(folder, MADE);
    const file = path.join(folder, 'texts.json');
    await writeFile(file, JSON.stringify(['abc', 'a b']));
    const program = (...given) =>
      spawnSync(process.execPath, [path.join(PACKAGE, 'bin', 'text.mjs'), ...given], {encoding: 'utf8'});
    const {stdout, stderr, status} = program(folder, file);
    assert.deepEqual([status, stderr], [0, '']);
    const {tokens, embeddings} = JSON.parse(stdout);
    assert.deepEqual(tokens, [
      [START, 514, END, 0, 0, 0],
      [START, 320, 321, END, 0, 0],
    ]);
    for (const [i, vector] of embeddings.entries()) close(vector, MADE.embed(tokens[i]));
    assert.equal(program(folder).stderr, 'usage: text.mjs FOLDER TEXTS.json\n');
    const absent = program(path.join(folder, 'nothing'), file);
    assert.match(absent.stderr, /^\S*text\.json cannot be read: .*\n$/);
    assert.equal(absent.status, 1);
  } finally {
    await rm(folder, {recursive: true});
  }
});
