import assert from 'node:assert/strict';
import {before, test} from 'node:test';

import {startNodeBackend} from '../dist/core/node.js';
import {loadBioClip} from '../dist/index.js';
import {makeBundle, plain, RANKS, TAXA} from './fixture.js';

const RED = plain([255, 0, 0]);
const HERE = {latitude: 47.5, longitude: 8.5};
const thresholds = {level: 0.95, ranks: Object.fromEntries(RANKS.map((rank) => [rank, 0.5]))};

/** Cells of 60 degrees: the place is in cell 2 * 6 + 3. The gannet lives far away, the others here, in May. */
function withPrior(changes = {}) {
  const months = TAXA.flatMap((_, i) => Array.from({length: 12}, (__, month) => (month === 4 || i === 0 ? 20 : 0)));
  const cells = TAXA.flatMap((_, i) => [1, i === 0 ? 5 : 15, 20]);
  const bytes = Uint8Array.from([...months, ...cells]);
  const {bundle, files} = makeBundle();
  const prior = {file: 'prior-00000000.bin', cell: 60, weight: 1, floor: 0.001, temperature: 1, thresholds, ...changes};
  return {bundle: {...bundle, prior}, files: {...files, [prior.file]: bytes}, bytes};
}

async function load(made) {
  const {createHash} = await import('node:crypto');
  const {bundle, files, bytes} = made;
  const listed = {bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex')};
  const all = {...bundle.files, [bundle.prior.file]: listed};
  return loadBioClip({bundle: {...bundle, files: all, bytes: bundle.bytes + bytes.length}, files}, {backend: 'wasm'});
}

before(() => startNodeBackend('wasm'));

test('place and month count only together, where the prior knows them', async () => {
  const clip = await load(withPrior());
  const plainly = await clip.classify(RED);
  assert.equal(plainly.answer.name, 'Morus bassanus');
  assert.equal('placed' in plainly, false);
  for (const where of [{place: HERE}, {date: '2026-05-01'}, {place: {latitude: -80, longitude: 0}, date: '2026-05-01'}])
    assert.deepEqual(await clip.classify(RED, where), plainly);
  const placed = await clip.classify(RED, {place: HERE, date: new Date(2026, 4, 20)});
  assert.equal(placed.placed, true);
  const gannet = placed.taxa.find(({name}) => name === 'Morus bassanus');
  assert.equal(gannet.unexpected, true);
  assert.ok(gannet.probability < plainly.taxa[0].probability - 0.05, 'it is suppressed');
  assert.ok(placed.taxa.every(({name, unexpected}) => !unexpected || name === 'Morus bassanus'));
  assert.ok(Math.abs(placed.taxa.reduce((sum, {probability}) => sum + probability, 0) - 1) < 1e-12);
  clip.dispose();
  const weightless = await load(withPrior({weight: 0}));
  assert.deepEqual(await weightless.classify(RED, {place: HERE, date: '2026-05'}), plainly);
  weightless.dispose();
});

test('the thresholds are those of the prior when it counts', async () => {
  const never = {level: 0.95, ranks: Object.fromEntries(RANKS.map((rank) => [rank, null]))};
  const clip = await load(withPrior({thresholds: never}));
  assert.equal((await clip.classify(RED, {place: HERE, date: '2026-05'})).answer, null);
  assert.ok((await clip.classify(RED)).answer);
  clip.dispose();
});

test('impossible places and dates are refused, and so is half a file', async () => {
  const clip = await load(withPrior());
  await assert.rejects(clip.classify(RED, {place: {latitude: 91, longitude: 0}}), /place is 91, 0, not a latitude/);
  await assert.rejects(clip.classify(RED, {date: '1 May'}), /date is 1 May, not a Date or a text such as 2026-05-01/);
  clip.dispose();
  const made = withPrior();
  const bytes = made.bytes.slice(0, -1);
  await assert.rejects(
    load({...made, bytes, files: {...made.files, [made.bundle.prior.file]: bytes}}),
    /prior-00000000.bin is not complete/,
  );
});
