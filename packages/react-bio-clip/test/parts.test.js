import assert from 'node:assert/strict';
import {before, test} from 'node:test';

import {startNodeBackend} from '../dist/core/node.js';
import {serve} from '../dist/core/worker-server.js';
import {BioClipError, loadBioClip, loadInWorker} from '../dist/index.js';
import {makeBundle, makeParts, plain, readerOf} from './fixture.js';

const [RED, GREEN, BLUE] = [plain([255, 0, 0]), plain([0, 255, 0]), plain([0, 0, 255])];

before(() => startNodeBackend('wasm'));

/** A reader that notes what is read; `away` says which files cannot be fetched now. */
function watched(made, away = () => false) {
  const read = readerOf(made);
  const names = [];
  const reader = async (name) => {
    if (away(name)) throw new BioClipError('unreachable', `${name} cannot be fetched`, name);
    names.push(name);
    return read(name);
  };
  return {names, reader};
}

test('with all clades chosen answers are those of the whole table', async () => {
  const [whole, parts] = await Promise.all([makeBundle(), makeParts(2)].map((made) => loadBioClip(made)));
  for (const image of [RED, GREEN, BLUE, [RED, BLUE]]) {
    for (const options of [{topK: 9}, {rank: 'genus'}, {minConfidence: 0.3}]) {
      assert.deepEqual(await parts.classify(image, options), await whole.classify(image, options));
    }
  }
  for (const clip of [whole, parts]) clip.dispose();
});

test('only the part that a photograph needs is read, once, and progress counts the others', async () => {
  const made = makeParts(1);
  const {names, reader} = watched(made);
  const seen = [];
  const clip = await loadBioClip(reader, {onProgress: (progress) => seen.push(progress)});
  assert.equal(seen.at(-1).loaded, made.bundle.bytes - made.files[made.part].length);
  const before = await clip.classify(RED);
  assert.ok(!names.includes(made.part));
  assert.deepEqual(
    before.taxa.map(({name}) => name),
    ['Morus bassanus', 'Moraceae'],
  );
  assert.equal(before.answer.name, 'Morus bassanus');
  const others = await Promise.all([GREEN, BLUE, GREEN].map((image) => clip.classify(image)));
  assert.equal(names.filter((name) => name === made.part).length, 1);
  assert.deepEqual(
    others.map((found) => found.taxa[0].name),
    ['Morus alba', 'Ficus', 'Morus alba'],
  );
  assert.deepEqual(await clip.classify(RED), before); // whatever is loaded by now
  clip.dispose();
});

test('a clade counts as often as it has taxa', async () => {
  const clip = await loadBioClip(makeParts(1));
  const {taxa} = await clip.classify(RED);
  const [bird, plants] = taxa.map(({probability}) => probability);
  const between = 10 * (1 - 40 / 127); // of the logits
  assert.ok(Math.abs((3 * bird) / plants / Math.exp(between) - 1) < 1e-3);
  clip.dispose();
});

test('a part with one changed byte is refused', async () => {
  const made = makeParts(2);
  for (const at of [0, made.files[made.part].length - 2]) {
    const bytes = made.files[made.part].slice();
    bytes[at] ^= 1;
    const clip = await loadBioClip(readerOf(made, {[made.part]: bytes}));
    const expected = {code: 'damaged', file: made.part};
    await assert.rejects(clip.classify(GREEN), expected);
    await assert.rejects(clip.preload(), expected);
    clip.dispose();
  }
});

test('a part that cannot be fetched leaves its clade, is named, and is asked for again', async () => {
  const made = makeParts(2);
  let offline = false;
  const {reader} = watched(made, (name) => offline && name === made.part);
  const clip = await loadBioClip(reader);
  offline = true;
  const found = await clip.classify(GREEN);
  assert.deepEqual(found.missing, ['Moraceae']);
  assert.deepEqual([found.taxa[0].name, found.answer.rank], ['Moraceae', 'family']);
  await assert.rejects(clip.preload(), {code: 'unreachable'});
  offline = false;
  const back = await clip.classify(GREEN);
  assert.equal(back.missing, undefined);
  assert.equal(back.taxa[0].name, 'Morus alba');
  clip.dispose();
});

test('preloaded clades need no network, and a name that is none is an error', async () => {
  const made = makeParts(2);
  let offline = false;
  const {names, reader} = watched(made, () => offline);
  const clip = await loadBioClip(reader);
  await assert.rejects(clip.preload(['Quercus']), {code: 'argument', message: /Quercus is no clade/});
  await clip.preload(['Animalia']);
  assert.ok(!names.includes(made.part));
  const seen = [];
  await clip.preload(['Rosales'], {onProgress: (progress) => seen.push(progress)});
  const total = made.files[made.part].length;
  assert.deepEqual(seen, [{loaded: total, total}]);
  offline = true;
  assert.equal((await clip.classify(GREEN)).taxa[0].name, 'Morus alba');
  await assert.rejects(clip.preload(undefined, {signal: AbortSignal.abort()}), {name: 'AbortError'});
  clip.dispose();
  await assert.rejects(clip.preload(), {code: 'disposed'});
  const whole = await loadBioClip(makeBundle());
  await whole.preload();
  whole.dispose();
});

test('a worker loads parts as the page itself would', async () => {
  const {port1, port2} = new MessageChannel();
  try {
    serve(port2);
    const made = makeParts(1);
    const clip = await loadInWorker(port1, {bundle: made.bundle, files: made.files});
    const seen = [];
    await clip.preload(['Plantae'], {onProgress: (progress) => seen.push(progress)});
    assert.equal(seen.at(-1).total, made.files[made.part].length);
    await assert.rejects(clip.preload(['Quercus']), {code: 'argument'});
    assert.equal((await clip.classify(GREEN)).taxa[0].name, 'Morus alba');
    clip.dispose();
  } finally {
    port1.close();
  }
});
