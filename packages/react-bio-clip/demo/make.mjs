/**
 * Make the demo page around a bundle: node demo/make.mjs BUNDLE [FOLDER] [--serve] [--key PUBLIC]
 *
 * Writes FOLDER/site, for any static web server, and FOLDER/bioclip-lite.html, the same page as one file that opens by
 * a double click (default folder: demo/dist). Both replace output of an earlier run, and nothing else. --serve serves
 * the site at a local address, which it prints; HOST=0.0.0.0 serves it to the network, PORT=... on another port than 4173.
 * With --key, an Ed25519 public key in PEM, the page refuses a model that was not signed with it.
 */

import {createHash} from 'node:crypto';
import {cp, mkdir, mkdtemp, readFile, readdir, realpath, rm, stat, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';

import {build, preview} from 'vite';

const DEMO = path.dirname(fileURLToPath(import.meta.url));
const configFile = path.join(DEMO, 'vite.config.js');

const {serve, key, given} = readArguments();
const [bundle, folder = path.join(DEMO, 'dist')] = given.map((name) => path.resolve(name));
const [site, file] = ['site', 'bioclip-lite.html'].map((name) => path.join(folder, name));
const publicKey = key && (await readFile(key, 'utf8').catch(() => null));
if (publicKey === null) {
  console.error(`${key} cannot be read. Print the public key of a private one: openssl pkey -in PRIVATE -pubout`);
  process.exit(1);
}
try {
  await readFile(path.join(bundle, 'bundle.json'));
} catch {
  console.error(`There is no model in ${bundle}. Make one: make evaluate (or snakemake --cores all convert).`);
  process.exit(1);
}
try {
  await mkdir(folder, {recursive: true});
  await check();
} catch (error) {
  console.error(`The page cannot be written to ${folder}: ${error.message}.`);
  process.exit(1);
}

const define = {'import.meta.env.PUBLIC_KEY': publicKey === undefined ? 'undefined' : JSON.stringify(publicKey)};
await build({configFile, define, logLevel: 'warn', build: {outDir: site}});
await cp(bundle, path.join(site, 'model'), {recursive: true, dereference: true});

const single = await mkdtemp(path.join(tmpdir(), 'bioclip-lite-'));
try {
  await build({configFile, define, mode: 'single', logLevel: 'warn', build: {outDir: single}});
  await writeFile(file, await oneFile(single));
} finally {
  await rm(single, {recursive: true});
}

console.log(`${site}  for any static web server`);
console.log(`${file}  the page as one file (${((await stat(file)).size / 1e6).toFixed(1)} MB)`);

if (serve) {
  const {HOST = '127.0.0.1', PORT = 4173} = process.env;
  const server = await preview({
    configFile,
    logLevel: 'warn',
    preview: {host: HOST, port: Number(PORT)},
    build: {outDir: site},
  });
  for (const url of [...server.resolvedUrls.local, ...server.resolvedUrls.network]) console.log(`\n  ${url}`);
  console.log('\nStop with Ctrl+C.');
}

function readArguments() {
  try {
    const options = {serve: {type: 'boolean'}, key: {type: 'string'}};
    const {values, positionals: given} = parseArgs({options, allowPositionals: true});
    if (given.length === 1 || given.length === 2) return {...values, given};
  } catch {
    // an option that does not exist, or --key without a file
  }
  console.error('usage: node demo/make.mjs BUNDLE [FOLDER] [--serve] [--key PUBLIC]');
  process.exit(2);
}

/** Throw if a file in the way was not written by an earlier run: building empties the site. */
async function check() {
  const text = (name) =>
    readFile(name, 'utf8').catch((error) => (error.code === 'ENOENT' ? null : Promise.reject(error)));
  const page = await text(file);
  if (page && !page.includes('<script type="application/json" id="bundle">')) {
    throw new Error('bioclip-lite.html exists, is no page of an earlier run, and would be overwritten');
  }
  const found = await readdir(site).catch((error) => (error.code === 'ENOENT' ? [] : Promise.reject(error)));
  if (!found.length) return;
  const own = ['index.html', 'sw.js', 'assets', 'model', '.DS_Store', ...(await readdir(path.join(DEMO, 'public')))];
  const other = found.find((name) => !own.includes(name));
  if (other || !(await text(path.join(site, 'sw.js')))?.startsWith('const PAGE = ')) {
    throw new Error(`site/${other ?? found[0]} exists, belongs to no page of an earlier run, and would be deleted`);
  }
  if (`${await realpath(bundle)}${path.sep}`.startsWith(`${await realpath(site)}${path.sep}`)) {
    throw new Error(`the model for the page, ${bundle}, lies in the site that would be replaced`);
  }
}

/** Embed script, style, icon, TensorFlow.js and model in the page, whose policy then forbids all loading. */
async function oneFile(built) {
  const assets = await readdir(path.join(built, 'assets'));
  const content = (ending) =>
    readFile(
      path.join(
        built,
        'assets',
        assets.find((name) => name.endsWith(ending)),
      ),
      'utf8',
    );
  const script = (await content('.js')).replaceAll('</script', '<\\/script').replaceAll('<!--', '<\\!--');
  const style = await content('.css');
  const icon = await readFile(path.join(DEMO, 'public', 'icon.svg'));
  const files = {};
  for (const name of (await readdir(bundle)).sort()) {
    files[name] = (await readFile(path.join(bundle, name))).toString('base64');
  }
  const hash = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  const policy = [
    "default-src 'none'",
    `script-src ${hash(script)} 'wasm-unsafe-eval'`,
    `style-src ${hash(style)}`,
    'img-src blob: data:',
    'media-src blob:',
    'connect-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ];
  const page = await readFile(path.join(built, 'index.html'), 'utf8');
  const edits = [
    [/(Content-Security-Policy"\s+content=)"[^"]*"/, (_, start) => `${start}"${policy.join('; ')}"`],
    [/<link rel="(apple-touch-icon|manifest)"[^>]*>\s*/g, () => ''],
    [/(<link rel="icon" href=)"[^"]*"/, (_, start) => `${start}"data:image/svg+xml;base64,${icon.toString('base64')}"`],
    [/<link rel="stylesheet"[^>]*>/, () => `<style>${style}</style>`],
    [/<script type="module"[^>]*><\/script>/, () => ''],
    [
      '</body>',
      () =>
        `<script type="application/json" id="bundle">${JSON.stringify(files)}</script>\n` +
        `<script type="module">${script}</script>\n</body>`,
    ],
  ];
  return edits.reduce((text, [what, by]) => {
    const next = text.replace(what, by);
    if (next === text) throw new Error(`the built page has no ${what}`);
    return next;
  }, page);
}
