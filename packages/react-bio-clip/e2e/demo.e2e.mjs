/**
 * The demo page as `make demo` serves it, in Chromium: BUNDLE=folder PHOTOS=folder node --test e2e/demo.e2e.mjs
 *
 * PHOTOS holds JPEG files; their answers must be those that Node gives. SCREENSHOTS=folder keeps pictures of the page.
 * KEY=file, a public key, makes the page check the signature of the bundle.
 */

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {createHash} from 'node:crypto';
import {once} from 'node:events';
import {mkdir, mkdtemp, readdir, readFile, rm, writeFile} from 'node:fs/promises';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {after, before, test} from 'node:test';
import {fileURLToPath, pathToFileURL} from 'node:url';

import {chromium} from 'playwright-core';
import sharp from 'sharp';

import {findChromium, serve} from '../bin/chromium.mjs';
import {decode, loadFolder} from '../dist/core/node.js';

const {BUNDLE, PHOTOS, SCREENSHOTS, KEY} = process.env;
const MAKE = fileURLToPath(new URL('../demo/make.mjs', import.meta.url));
const AXE = createRequire(import.meta.url).resolve('axe-core');
const PHONE = {width: 390, height: 844};
const DESKTOP = {width: 1280, height: 860};
const PATIENCE = 30_000; // milliseconds: continuous integration is slow

let folder, server, url, browser, node;
const photos = [];

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'demo-'));
  for (const name of (await readdir(PHOTOS)).sort()) photos.push(path.join(PHOTOS, name));
  assert.ok(photos.length > 1, `no photographs in ${PHOTOS}`);
  node = await loadFolder(BUNDLE);
  ({process: server, url} = await makeDemo(BUNDLE));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  server?.kill();
  node?.dispose();
  await rm(folder, {recursive: true, force: true});
});

/** Builds the page and serves it, as `make demo` does, on a free port. */
async function makeDemo(bundle) {
  const env = {...process.env, PORT: '0', HOST: '127.0.0.1'};
  const child = spawn(
    process.execPath,
    [MAKE, bundle, path.join(folder, 'demo'), '--serve', ...(KEY ? ['--key', KEY] : [])],
    {env},
  );
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data));
  const ended = once(child, 'exit').then(() => assert.fail(`make.mjs ended:\n${said}`));
  ended.catch(() => {});
  for (;;) {
    const found = said.match(/http:\S+/);
    if (found) return {process: child, url: found[0]};
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 50))]);
  }
}

/** Chromium, whose camera shows the first photograph. */
async function launch() {
  const executablePath = findChromium();
  assert.ok(executablePath, 'this test needs Chromium: apt-get install chromium');
  const film = path.join(folder, 'camera.mjpeg');
  await writeFile(film, await sharp(photos[0]).resize(640, 480, {fit: 'cover'}).jpeg({quality: 95}).toBuffer());
  const camera = [
    '--use-fake-ui-for-media-stream',
    '--use-fake-device-for-media-stream',
    `--use-file-for-fake-video-capture=${film}`,
  ];
  const flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking'];
  return chromium.launch({executablePath, args: [...flags, ...camera], headless: true});
}

/** A new visitor; what the page says to the console, and asks of other places, ends the test. */
async function visit(t, options = {}, address = url) {
  const context = await browser.newContext({viewport: DESKTOP, ...options});
  context.setDefaultTimeout(PATIENCE);
  t.after(() => context.close());
  const complaints = [];
  context.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  context.on('weberror', (error) => complaints.push(error.error().message));
  context.on('request', (request) => {
    const own = [address, 'blob:', 'data:'].some((start) => request.url().startsWith(start));
    if (!own) complaints.push(`asked for ${request.url()}`);
  });
  const page = await context.newPage();
  await page.goto(address);
  return {page, context, complaints};
}

/** Opens the view of many photographs, and waits for the answers to photographs. */
async function openMany(page, files) {
  await page.getByRole('link', {name: 'Many photographs'}).click();
  await page.locator('input[type=file]').first().setInputFiles(files);
  await page.locator('.batch p:not(:empty)').waitFor();
}

const open = (page, file) => page.locator('input[type=file]').setInputFiles(file);

/** What the page says, once it says something. */
async function answerOn(page) {
  await page.locator('.headline').waitFor();
  const texts = (selector) => page.locator(selector).allInnerTexts();
  const rows = (all) => all.map((text) => text.replaceAll('\n', ' ').trim());
  return {
    headline: await page.locator('.headline h2').innerText(),
    rank: (await page.locator('.headline .rank').count()) ? await page.locator('.headline .rank').innerText() : null,
    notes: await texts('.headline .note'),
    isOffList: (await page.locator('.off-list').count()) > 0,
    path: rows(await texts('.path li')),
    candidates: rows(await texts('.candidates li')),
    spoken: await page.locator('[role=status]').textContent(),
  };
}

const percent = (text) => Number(text.match(/(\d+) %$/)[1]);

/** The page's answer is Node's, to a percent or two: two decoders of JPEG differ in single bits. */
async function assertAnswer(found, file) {
  const inNode = await node.classify(await decode(await readFile(file)), {topK: 5});
  const {taxa} = inNode;
  const answer = inNode.answer ?? (node.info.thresholds ? null : taxa[0]);
  assert.equal(found.spoken.includes('not calibrated'), !node.info.thresholds);
  if (Math.abs((inNode.onList ?? 1) - 0.5) > 0.02) assert.equal(found.isOffList, inNode.onList < 0.5);
  assert.equal(found.spoken.includes('probably not on the list'), found.isOffList);
  if (answer) {
    assert.ok(found.headline.startsWith(answer.name), `${file}: ${found.headline}, in Node ${answer.name}`);
    assert.equal(found.rank.toLowerCase(), answer.rank);
    assert.ok(
      Math.abs(percent(found.headline) - 100 * answer.probability) < 2.5,
      `${found.headline} ${answer.probability}`,
    );
    assert.ok(found.spoken.startsWith(`${answer.rank} ${answer.name}`), found.spoken);
    assert.ok(
      found.path.some((row) => row.startsWith(answer.rank) && row.includes(answer.name)),
      found.path.join('\n'),
    );
    const notes = found.notes.join(' ');
    assert.equal(notes.includes('Not told apart below'), answer.isFinest, notes);
    assert.equal(notes.includes('Known by name alone'), answer.zeroShot, notes);
    for (const told of [notes, found.spoken]) assert.ok(told.includes(answer.note ?? ''), told);
    const below = node.info.ranks.slice(node.info.ranks.indexOf(answer.rank) + 1);
    assert.ok(!answer.isFinest || !found.path.some((row) => below.some((rank) => row.startsWith(rank))));
  } else {
    assert.equal(found.headline, 'Not sure');
  }
  assert.equal(found.candidates.length, taxa.length);
  taxa.forEach(({name, probability, zeroShot}, i) => {
    const isClear = taxa.every((other) => other.name === name || Math.abs(other.probability - probability) > 0.01);
    if (isClear) assert.ok(found.candidates[i].startsWith(name), `${file}: ${found.candidates[i]}, in Node ${name}`);
    if (isClear) assert.equal(found.candidates[i].includes('known by name alone'), zeroShot);
    assert.ok(Math.abs(percent(found.candidates[i]) - 100 * probability) < 2.5);
  });
}

async function assertAccessible(page, where) {
  await settle(page);
  // Not by a script element: the page's own policy forbids it, and must.
  await page.evaluate(await readFile(AXE, 'utf8'));
  const {violations} = await page.evaluate(() => globalThis.axe.run({resultTypes: ['violations']}));
  const told = violations.map(
    ({id, help, nodes}) => `${where}: ${id}: ${help}\n  ${nodes.map(({html}) => html).join('\n  ')}`,
  );
  assert.deepEqual(told, []);
  const excess = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(excess <= 0, `${where}: wider than the screen`);
}

const settle = (page) => page.evaluate(() => Promise.all(document.getAnimations().map(({finished}) => finished)));

async function keep(page, name) {
  if (!SCREENSHOTS) return;
  await settle(page);
  await page.screenshot({path: path.join(SCREENSHOTS, `${name}.png`), fullPage: true});
}

test('answers are those of Node', async (t) => {
  const {page, complaints} = await visit(t);
  for (const photo of photos) {
    await page.reload();
    await open(page, photo);
    await assertAnswer(await answerOn(page), photo);
  }
  assert.deepEqual(complaints, []);
});

test('a photograph can be dropped or pasted', async (t) => {
  const {page} = await visit(t);
  const content = [...(await readFile(photos[1]))];
  for (const kind of ['drop', 'paste']) {
    await page.reload();
    await page.evaluate(
      ([bytes, type]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'photo.jpg', {type: 'image/jpeg'}));
        const event =
          type === 'drop'
            ? new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})
            : new ClipboardEvent('paste', {clipboardData: data, bubbles: true});
        document.body.dispatchEvent(event);
      },
      [content, kind],
    );
    await assertAnswer(await answerOn(page), photos[1]);
  }
});

test('the keyboard is enough', async (t) => {
  const {page} = await visit(t, {viewport: PHONE});
  const focused = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.tagName);
  const tabTo = async (name) => {
    for (let i = 0; i < 15 && (await focused()) !== name; i++) await page.keyboard.press('Tab');
    assert.equal(await focused(), name);
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, 'none'); // and one sees where one is
  };
  const chooser = page.waitForEvent('filechooser');
  await tabTo('Open a photo');
  await page.keyboard.press('Enter');
  await (await chooser).setFiles(photos[0]);
  await assertAnswer(await answerOn(page), photos[0]);
  assert.equal(await focused(), 'Another photo'); // one can go on from where one was

  await tabTo('About this model');
  await page.keyboard.press('Enter');
  await page.getByText('How sure is sure?').waitFor();

  await page.evaluate(() => document.activeElement.blur());
  await tabTo('Use camera');
  await page.keyboard.press('Space');
  assert.equal(await focused(), 'Close camera');
  const shutter = page.getByRole('button', {name: 'Take a photograph'});
  await shutter.and(page.locator(':enabled')).waitFor();
  await page.evaluate(() => document.activeElement.blur());
  await tabTo('Take a photograph');
  await page.keyboard.press('Enter');
  await answerOn(page);
  assert.equal(await focused(), 'Take another');
  await tabTo('Close camera');
  await page.keyboard.press('Enter');
  await page.locator('video').waitFor({state: 'detached'});
  assert.equal(await page.locator('.headline').count(), 0); // nothing that belongs to another picture stays
});

test('the camera answers, once or all the time', async (t) => {
  const {page, complaints} = await visit(t, {viewport: PHONE});
  const film = path.join(folder, 'frame.jpg');
  await writeFile(film, await readFile(path.join(folder, 'camera.mjpeg')));
  const [{name}] = (await node.classify(await decode(await readFile(film)))).taxa;
  await page.getByRole('button', {name: 'Use camera'}).click();
  await page.getByRole('button', {name: 'Take a photograph'}).click();
  assert.ok((await answerOn(page)).candidates[0].startsWith(name));
  await keep(page, 'camera');
  await assertAccessible(page, 'camera');
  await page.getByRole('checkbox', {name: 'Answer while I look'}).check();
  assert.ok((await answerOn(page)).candidates[0].startsWith(name));
  await page.getByRole('button', {name: 'Close camera'}).click();
  assert.deepEqual(complaints, []);
});

test('without permission for the camera the page says so', async (t) => {
  const {page, context} = await visit(t);
  await context.addInitScript(() => {
    navigator.mediaDevices.getUserMedia = async () => {
      throw new DOMException('denied', 'NotAllowedError');
    };
  });
  await page.reload();
  await page.getByRole('button', {name: 'Use camera'}).click();
  await page.getByRole('alert').filter({hasText: 'may not be used'}).waitFor();
  await assertAccessible(page, 'refused camera');
});

test('common names in another language', async (t) => {
  const {languages} = node.info;
  const {page} = await visit(t);
  await page.getByText('About this model').waitFor();
  const [, other = 'de'] = languages;
  await page.locator('select').selectOption(other);
  await page.getByText('Über dieses Modell').waitFor({state: other === 'de' ? 'visible' : 'detached'});
  await page.reload(); // the choice is kept
  assert.equal(await page.locator('select').inputValue(), other);
  assert.equal(await page.locator('html').getAttribute('lang'), other);
  await open(page, photos[0]);
  const {candidates} = await answerOn(page);
  const {taxa} = await node.classify(await decode(await readFile(photos[0])), {topK: 5});
  for (const [i, {commonNames}] of taxa.entries()) {
    if (commonNames[other]) assert.ok(candidates[i].includes(commonNames[other]), candidates[i]);
  }
});

for (const [device, viewport] of [
  ['phone', PHONE],
  ['desktop', DESKTOP],
  ['smallest', {width: 320, height: 568}],
]) {
  for (const colorScheme of ['light', 'dark']) {
    test(`accessible: ${device}, ${colorScheme}`, async (t) => {
      const {page} = await visit(t, {viewport, colorScheme});
      await page.getByText('About this model').waitFor();
      await keep(page, `${device}-${colorScheme}-empty`);
      await assertAccessible(page, 'empty');
      await open(page, photos[0]);
      await answerOn(page);
      await keep(page, `${device}-${colorScheme}`);
      await assertAccessible(page, 'answer');
      await page.getByText('About this model').click();
      await keep(page, `${device}-${colorScheme}-about`);
      await assertAccessible(page, 'about');
    });
  }
}

test('errors are sentences', async (t) => {
  const {page} = await visit(t);
  const notes = path.join(folder, 'notes.txt');
  await writeFile(notes, 'no photograph');
  await open(page, notes);
  await page.getByRole('alert').filter({hasText: 'notes.txt is no photograph'}).waitFor();
  await assertAccessible(page, 'error');
  await open(page, photos[0]); // and it goes on
  await assertAnswer(await answerOn(page), photos[0]);

  const other = await browser.newContext({serviceWorkers: 'block'});
  t.after(() => other.close());
  const weights = Object.keys(node.info.files).find((name) => name.startsWith('weights'));
  await other.route(`**/${weights}`, (route) => route.fulfill({status: 404}));
  const broken = await other.newPage();
  await broken.goto(url);
  await broken.getByRole('alert').filter({hasText: weights}).waitFor();
  await other.unroute(`**/${weights}`);
  await broken.getByRole('button', {name: 'Try again'}).click();
  await broken.getByText('About this model').waitFor();
});

test('many photographs are named, decided on, kept and exported', async (t) => {
  const {page, complaints} = await visit(t, {acceptDownloads: true});
  const taken = path.join(folder, 'taken');
  await mkdir(taken, {recursive: true});
  const exif = (time) => ({IFD2: {DateTimeOriginal: time, OffsetTimeOriginal: '+02:00'}});
  const times = ['2026:05:01 10:00:00', '2026:05:01 10:04:00', '2026:05:01 12:00:00'];
  const files = times.map((_, i) => path.join(taken, `${i}.jpg`));
  for (const [i, time] of times.entries()) {
    await writeFile(
      files[i],
      await sharp(photos[i % photos.length])
        .withExif(exif(time))
        .jpeg()
        .toBuffer(),
    );
  }
  const notes = path.join(folder, 'notes.txt');
  await writeFile(notes, 'no photograph');
  await openMany(page, [...files, notes, files[0]]);
  await page.getByText('3 photographs were added. 1 was here already.').waitFor();
  await page.getByRole('alert').filter({hasText: 'notes.txt is no photograph'}).waitFor();
  await page.getByRole('button', {name: 'Dismiss'}).click();
  await page.getByText('3 photographs · 2 observations · 0 looked at').waitFor();

  const rows = page.locator('.notes tbody tr:not(.observation)');
  for (const [i, file] of files.entries()) {
    const {answer, taxa} = await node.classify(await decode(await readFile(file)), {topK: 1});
    const named = answer ?? (node.info.thresholds ? null : taxa[0]);
    const said = await rows.nth(i).locator('.taxon').innerText();
    assert.ok(said.startsWith(named ? named.name : 'Not sure'), `${said}, in Node ${named?.name}`);
    assert.equal(await rows.nth(i).locator('.time').innerText(), times[i].slice(11, 16));
  }

  await rows.nth(0).getByRole('button', {name: 'Reject'}).click();
  await page.getByText('nothing of the list').waitFor();
  await rows.nth(1).getByRole('button', {name: 'Change'}).last().click();
  const wanted = node.info.taxa.at(-1).ranks.at(-1);
  await page.getByRole('searchbox').fill(wanted);
  await keep(page, 'many-edit');
  await assertAccessible(page, 'edit');
  await page.getByRole('list', {name: 'Another taxon'}).getByRole('button').first().click();
  await rows.nth(1).getByText('changed').waitFor();
  assert.ok((await rows.nth(1).locator('.taxon').innerText()).includes(wanted));

  await page.reload(); // all is kept
  await page.getByText('3 photographs · 2 observations · 2 looked at').waitFor();
  await page.locator('.export').waitFor();
  await keep(page, 'many');
  await assertAccessible(page, 'many');

  const saved = async (click) => {
    const [download] = await Promise.all([page.waitForEvent('download'), click()]);
    return readFile(await download.path());
  };
  const button = (name) => page.getByRole('button', {name, exact: true});
  const csv = (await saved(() => button('CSV').click())).toString();
  const [header, ...lines] = csv.trimEnd().split('\n');
  const at = (column) => header.split(',').indexOf(column);
  const confirmed = lines.map((line) => line.split(',')[at('confirmed')]);
  assert.deepEqual(confirmed, ['none', confirmed[1], '']);
  assert.ok(confirmed[1].includes(wanted));
  const sha256 = createHash('sha256')
    .update(await readFile(path.join(BUNDLE, 'bundle.json')))
    .digest('hex');
  assert.ok(lines.every((line) => line.includes(sha256)));
  const archive = await saved(() => button('Darwin Core').click());
  assert.ok(['meta.xml', 'occurrence.txt'].every((name) => archive.includes(name)));
  await button('Camtrap DP').click();
  await assertAccessible(page, 'camtrap');
  await page.getByLabel('Latitude').fill('47.5');
  await page.getByLabel('Longitude').fill('8.5');
  const camtrap = await saved(() => button('Export').click());
  assert.ok(camtrap.includes('datapackage.json'));

  page.on('dialog', (dialog) => dialog.accept());
  await page.getByRole('button', {name: 'Delete all'}).click();
  await page.getByText('No photographs yet').waitFor();
  await page.reload();
  await page.getByText('No photographs yet').waitFor();
  await page.goBack(); // to the view of one photograph
  await page.getByRole('button', {name: 'Open a photo'}).waitFor();
  assert.deepEqual(complaints, []);
});

test('several dropped photographs, and those of other applications, become notes', async (t) => {
  const {page} = await visit(t);
  await page.getByText('works offline from now on').waitFor();
  await page.locator('input[type=file]').setInputFiles(photos.slice(0, 2));
  await page.getByText('2 photographs were added.').waitFor();
  const content = [...(await readFile(photos[2]))];
  await page.evaluate(async (bytes) => {
    const body = new FormData();
    body.append('photographs', new File([new Uint8Array(bytes)], 'shared & sent.jpg', {type: 'image/jpeg'}));
    await fetch('share', {method: 'POST', body});
  }, content);
  await page.reload();
  await page.getByText('3 photographs').waitFor();
  await page.getByText('shared & sent.jpg').waitFor();
});

test('a large photograph is answered as the same one scaled down', async (t) => {
  const {page} = await visit(t, {viewport: {width: 280, height: 600}});
  const large = path.join(folder, 'large.jpg');
  const upright = sharp(photos.at(-1)).resize(4000, 3000, {fit: 'fill'});
  await writeFile(
    large,
    await upright
      .withExif({IFD0: {Orientation: '6'}})
      .jpeg()
      .toBuffer(),
  );
  await openMany(page, large);
  const [{name, probability}] = (await node.classify(await decode(await readFile(large)))).taxa;
  await page.locator('.picture button').click();
  const [first] = await page.locator('.choices li').filter({hasText: name}).allInnerTexts();
  assert.ok(Math.abs(percent(first.replace('\n', ' ').trim()) - 100 * probability) < 2.5, `${first}, ${probability}`);
  await assertAccessible(page, 'many at 280 pixels');
});

test('the page that is one file needs nothing else', async (t) => {
  const address = pathToFileURL(path.join(folder, 'demo', 'bioclip-lite.html')).href;
  const {page, complaints} = await visit(t, {}, address);
  await open(page, photos[0]);
  await assertAnswer(await answerOn(page), photos[0]);
  await openMany(page, photos.slice(0, 2));
  await page.getByText('2 photographs were added.').waitFor();
  assert.deepEqual(complaints, []);
});

test('it can be installed', async (t) => {
  const {page, context} = await visit(t);
  await page.getByText('works offline from now on').waitFor();
  const session = await context.newCDPSession(page);
  const {errors} = await session.send('Page.getAppManifest');
  const {installabilityErrors} = await session.send('Page.getInstallabilityErrors');
  const reasons = installabilityErrors.map(({errorId}) => errorId).filter((id) => id !== 'in-incognito'); // as tests are
  assert.deepEqual([errors, reasons], [[], []]);
});

test('a model with one changed byte is refused by its signature', {skip: !KEY}, async (t) => {
  const file = path.join(folder, 'demo', 'site', 'model', 'bundle.json');
  const content = await readFile(file);
  t.after(() => writeFile(file, content));
  const changed = Buffer.from(content);
  changed[changed.lastIndexOf('0')] ^= 1;
  await writeFile(file, changed);
  const {page} = await visit(t);
  await page.getByText('is not the signature of bundle.json').waitFor();
  assert.equal(await page.getByText('About this model').count(), 0);
});

test('a page that its server isolates answers too', async (t) => {
  const site = path.join(folder, 'demo', 'site');
  const content = async (name) => readFile(path.join(site, name === '/' ? 'index.html' : name));
  const isolated = await serve(content, {isolated: true});
  t.after(() => isolated.close());
  const {page, complaints} = await visit(t, {}, isolated.url);
  assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  await open(page, photos[0]);
  await assertAnswer(await answerOn(page), photos[0]);
  assert.deepEqual(complaints, []);
});

test('a server that takes questions and answers none holds up no visitor who has been here', async (t) => {
  const {page, context} = await visit(t);
  await context.addInitScript(() => {
    navigator.storage.persist = async () => {
      document.documentElement.dataset.persist = 'asked';
      return true;
    };
  });
  await page.reload();
  await page.getByText('works offline from now on').waitFor();
  await page.locator('html[data-persist=asked]').waitFor({state: 'attached'}); // the browser shall keep the model
  await context.route('**/bundle.json', () => {});
  await page.reload();
  const began = Date.now();
  await page.getByText('About this model').waitFor();
  assert.ok(Date.now() - began < 5_000, `${Date.now() - began} ms`);
  await open(page, photos[0]);
  await assertAnswer(await answerOn(page), photos[0]);
});

test('after the first visit the server may be gone', async (t) => {
  const {page, context, complaints} = await visit(t);
  await page.getByText('works offline from now on').waitFor();
  server.kill();
  await once(server, 'exit');
  await assert.rejects(fetch(url)); // it is gone

  await page.reload();
  await open(page, photos[0]);
  await assertAnswer(await answerOn(page), photos[0]);
  await openMany(page, photos.slice(0, 2));
  await page.getByText('2 photographs were added.').waitFor();
  const tab = await context.newPage();
  await tab.goto(url);
  await open(tab, photos[1]);
  await assertAnswer(await answerOn(tab), photos[1]);
  assert.deepEqual(
    complaints.filter((text) => !text.includes('ERR_CONNECTION_REFUSED')), // the question for a newer bundle.json
    [],
  );
});
