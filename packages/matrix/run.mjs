#!/usr/bin/env node
/**
 * Install the packed package into small applications, fresh ones, and see that each builds and answers:
 * run.mjs [APPLICATION...], all without an argument. Needs npm's registry; pages need Chromium. Prints a table; status 1
 * if something failed. Applications lie in a folder of temporary files, which is deleted.
 */

import {execFile} from 'node:child_process';
import {cp, mkdir, mkdtemp, readFile, rm, writeFile} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {createRequire} from 'node:module';
import path from 'node:path';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

import {findChromium, launchChromium, serve} from '../react-bio-clip/bin/chromium.mjs';
import {makeBundle, makeLitert, plain, writeBundle} from '../react-bio-clip/test/fixture.js';
import {moduleOf} from '../react-bio-clip-sample/scripts/module.mjs';

const HERE = fileURLToPath(new URL('.', import.meta.url));
const PACKAGES = path.dirname(path.resolve(HERE));
const PACKAGE = path.join(PACKAGES, 'react-bio-clip');
const WASM = 'node_modules/@tensorflow/tfjs-backend-wasm/dist';
/** Milliseconds until a page must have answered. */
const PATIENCE = 120_000;

/** Check each application in its own folder, after `npm install`; gives what was seen. */
const APPLICATIONS = {
  async node(folder) {
    const readme = await readFile(path.join(PACKAGE, 'README.md'), 'utf8');
    await writeFile(path.join(folder, 'main.js'), /```mjs\n(.*?)```/s.exec(readme)[1]);
    const printed = await run('node', ['main.js'], folder);
    if (!/^(.+), and it is \1\n$/.test(printed)) throw new Error(`it answered: ${printed}`);
    return 'the first lines of the README answer';
  },
  async html(folder) {
    const read = (name) => readFile(path.join(folder, name.replace(/^\/npm\//, 'node_modules/')));
    const cdn = await serve(read, {isOpen: true});
    const page = await readFile(path.join(folder, 'index.html'), 'utf8');
    const html = page.replaceAll('CDN/', cdn.url);
    const seen = await inChromium(async (name) => (name === '/' ? html : null)).finally(cdn.close);
    return `${seen} from another origin, by dist/cdn.js`;
  },
  vite: site,
  webpack: site,
  next: async (folder) => `types, ${await site(folder)}`,
  async expo(folder) {
    await bundleFor(folder, makeLitert().made);
    await run('npx', ['tsc', '--noEmit'], folder);
    const settings = ['--platform', 'ios', '--platform', 'android', '--max-workers', '1', '--output-dir', 'dist'];
    await run('npx', ['expo', 'export', ...settings], folder, {CI: '1', EXPO_NO_TELEMETRY: '1', EXPO_OFFLINE: '1'});
    const {fileMetadata} = JSON.parse(await readFile(path.join(folder, 'dist', 'metadata.json'), 'utf8'));
    const sizes = await Promise.all(
      ['ios', 'android'].map(async (system) => {
        const {length} = await readFile(path.join(folder, 'dist', fileMetadata[system].bundle));
        return `${system} ${(length / 1e6).toFixed(1)} MB`;
      }),
    );
    return `types, bytecode of Hermes: ${sizes.join(', ')}`;
  },
  async 'react-native-0.72'(folder) {
    await bundleFor(folder, makeBundle());
    for (const system of ['ios', 'android']) {
      const names = [
        '--entry-file',
        'index.js',
        '--bundle-output',
        `${system}.js`,
        '--assets-dest',
        `assets-${system}`,
      ];
      await run('npx', ['react-native', 'bundle', '--platform', system, '--dev', 'false', ...names], folder);
      const code = await readFile(path.join(folder, `${system}.js`), 'utf8');
      if (!code.includes('classifyUri')) throw new Error(`${system}.js lacks the package`);
    }
    return 'bundled for ios and android without exports';
  },
};

/** Applications whose sources lie elsewhere than in apps/ by their name. */
const SOURCES = {expo: [path.join(PACKAGES, 'example-expo')], vite: ['web', 'vite'], webpack: ['web', 'webpack']};

async function run(program, args, cwd, more = {}) {
  try {
    const env = {...process.env, NEXT_TELEMETRY_DISABLED: '1', ...more};
    const {stdout} = await promisify(execFile)(program, args, {cwd, env, maxBuffer: 1e8});
    return stdout;
  } catch (error) {
    const end = `${error.stdout ?? ''}${error.stderr ?? ''}`.trim().split('\n').slice(-15).join('\n');
    throw new Error(`${program} ${args.join(' ')}\n${end || error.message}`);
  }
}

function expectRight(found) {
  if (found.trim() !== 'right') throw new Error(`it answered: ${found}`);
}

/** Build a page by its bundler, serve it with the WebAssembly files, and wait for its answer. */
async function site(folder) {
  await run('npm', ['run', 'build'], folder);
  const from = (name) => {
    if (name.startsWith('/wasm/')) return path.join(WASM, path.basename(name));
    return path.join('dist', name === '/' ? 'index.html' : name);
  };
  const read = (name) => readFile(path.join(folder, from(name)));
  const index = await read('/').catch(() => readFile(path.join(folder, 'index.html'))); // webpack writes none
  return inChromium(async (name) => (name === '/' ? index : read(name)));
}

/** Open a page and wait until its title tells what it answered. */
async function inChromium(content) {
  if (!findChromium()) return 'builds; no browser to answer in';
  const [browser, server] = [await launchChromium(), await serve(content)];
  try {
    const page = await browser.newPage();
    const failed = new Promise((_, reject) => page.on('pageerror', reject));
    await page.goto(server.url);
    const settled = page.waitForFunction(() => document.title !== 'loading', null, {timeout: PATIENCE});
    await Promise.race([settled, failed]);
    expectRight(await page.title());
    return 'answers';
  } finally {
    await browser.close();
    server.close();
  }
}

/** As the README says: npx bioclip-native BUNDLE assets/model. */
async function bundleFor(folder, made) {
  await writeBundle(path.join(folder, 'bundle'), made);
  await run('npx', ['bioclip-native', 'bundle', 'assets/model'], folder);
}

/** Pack the package, and the sample package with a small model in place of the sample's; gives their tarballs by name. */
async function pack(folder) {
  await run('npm', ['run', 'build'], PACKAGE);
  const sample = path.join(folder, 'sample');
  await cp(path.join(PACKAGES, 'react-bio-clip-sample'), sample, {recursive: true});
  const sharp = createRequire(path.join(PACKAGE, 'package.json'))('sharp');
  const raw = {width: 20, height: 14, channels: 3};
  const photo = await sharp(plain([255, 0, 0]).data, {raw})
    .jpeg({quality: 95})
    .toBuffer();
  await writeFile(path.join(sample, 'index.js'), moduleOf({...makeBundle(), photo, shows: 'Morus bassanus'}));
  const tarballs = {};
  for (const source of [PACKAGE, sample]) {
    const packed = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], source);
    const [{name, filename}] = JSON.parse(packed);
    tarballs[name] = `file:${path.join(folder, filename)}`;
  }
  return tarballs;
}

/** Make an application in `folder`: its sources, and its packages with the tarballs among them. */
async function install(name, folder, tarballs) {
  for (const source of SOURCES[name] ?? [name]) {
    const filter = (file) => !['node_modules', 'model', 'dist'].includes(path.basename(file));
    await cp(path.resolve(HERE, 'apps', source), folder, {recursive: true, filter});
  }
  const file = path.join(folder, 'package.json');
  const description = JSON.parse(await readFile(file, 'utf8'));
  for (const [wanted, tarball] of Object.entries(tarballs)) {
    if (wanted in description.dependencies) description.dependencies[wanted] = tarball;
  }
  await writeFile(file, JSON.stringify(description));
  await run('npm', ['install', '--no-audit', '--no-fund', '--no-package-lock', '--prefer-offline'], folder);
}

async function check(name, folder, tarballs) {
  const started = Date.now();
  const seconds = () => `${Math.round((Date.now() - started) / 1000)} s`;
  await mkdir(folder);
  try {
    await install(name, folder, tarballs);
    return {name, passed: true, seen: await APPLICATIONS[name](folder), took: seconds()};
  } catch (error) {
    console.error(`${name}: ${error.message}\n`);
    return {name, passed: false, seen: error.message.split('\n')[0], took: seconds()};
  } finally {
    await rm(folder, {recursive: true}); // Expo's packages alone take 0.5 GB
  }
}

const names = process.argv.slice(2);
const unknown = names.find((name) => !Object.hasOwn(APPLICATIONS, name));
if (unknown !== undefined) {
  console.error(`there is no application ${unknown}; there are ${Object.keys(APPLICATIONS).join(', ')}`);
  process.exit(2);
}
const folder = await mkdtemp(path.join(tmpdir(), 'matrix-'));
try {
  const tarballs = await pack(folder);
  const rows = [];
  for (const name of names.length ? names : Object.keys(APPLICATIONS)) {
    rows.push(await check(name, path.join(folder, name), tarballs));
  }
  console.log('| application | passed | seen | time |\n|---|---|---|---|');
  for (const {name, passed, seen, took} of rows)
    console.log(`| ${name} | ${passed ? 'yes' : 'NO'} | ${seen} | ${took} |`);
  process.exitCode = rows.every(({passed}) => passed) ? 0 : 1;
} finally {
  await rm(folder, {recursive: true});
}
