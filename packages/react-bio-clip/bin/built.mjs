/** Check that dist was built from the sources beside it: scripts/build.mjs leaves a mark with their hash. */

import {createHash} from 'node:crypto';
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

const ROOT = new URL('../', import.meta.url);
const SETTINGS = ['package-lock.json', 'tsconfig.core.json', 'tsconfig.json'];

/**
 * Path of the mark that a build of `part` of src ('core', or '' for all) leaves in dist; null without sources, as in a
 * published package. rules/environments.smk computes the mark of the core too.
 */
export function mark(part) {
  const folder = part ? `src/${part}` : 'src';
  if (!existsSync(new URL(folder, ROOT))) return null;
  const entries = readdirSync(new URL(folder, ROOT), {recursive: true, withFileTypes: true});
  const root = fileURLToPath(ROOT);
  const sources = entries
    .filter((entry) => entry.isFile())
    .map(({parentPath, name}) => `${parentPath}/${name}`.slice(root.length));
  const hash = createHash('sha256');
  for (const name of [...SETTINGS, ...sources.sort()]) {
    hash
      .update(`${name}\0`)
      .update(readFileSync(new URL(name, ROOT)))
      .update('\0');
  }
  return `${root}dist/${part ? `${part}/` : ''}ready-${hash.digest('hex').slice(0, 12)}`;
}

/** Run a program of this folder; report an error of the user or of a bundle in one line, without a stack. */
export async function command(main) {
  process.stdout.on('error', (error) => process.exit(error.code === 'EPIPE' ? 0 : 1)); // `| head` reads no further
  try {
    const built = mark('core');
    if (built && !existsSync(built)) {
      throw new Error(
        'dist is missing or older than src: run `make setup`, or `npm ci && npm run build` in this package',
      );
    }
    await main();
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
