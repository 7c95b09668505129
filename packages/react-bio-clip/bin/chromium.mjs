/** Start an installed Chromium without a window, and a small server for the pages that run in it. */

import {accessSync, constants} from 'node:fs';
import {createServer} from 'node:http';
import path from 'node:path';

import {chromium} from 'playwright-core';

import {peakOf} from './memory.mjs';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
// No sandbox: continuous integration runs as root. SwiftShader computes WebGL where no graphics processor does.
const FLAGS = ['--no-sandbox', '--disable-background-networking', '--enable-unsafe-swiftshader'];

/** Path of the first installed browser, or null. */
export function findChromium() {
  for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
    for (const name of NAMES) {
      try {
        accessSync(path.join(folder, name), constants.X_OK);
        return path.join(folder, name);
      } catch {
        // try the next name
      }
    }
  }
  return null;
}

/** Start the browser; `graphics`: use a graphics processor if there is one. */
export async function launchChromium({graphics = false} = {}) {
  const executablePath = findChromium();
  if (!executablePath) {
    throw new Error(`no browser is installed (looked for ${NAMES.join(', ')}): apt-get install chromium`);
  }
  return chromium.launch({executablePath, args: graphics ? FLAGS : [...FLAGS, '--disable-gpu'], headless: true});
}

/** Peak memory of the process of the only page, in bytes; null without /proc. */
export async function peakOfPage(browser) {
  const session = await browser.newBrowserCDPSession();
  const {processInfo} = await session.send('SystemInfo.getProcessInfo');
  await session.detach();
  const peaks = processInfo.filter(({type}) => type === 'renderer').map(({id}) => peakOf(id));
  return Math.max(...peaks) || null; // the spare process for the next page has less
}

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};
// Headers that a browser requires before it gives a page threads.
const ISOLATED = {'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp'};

/**
 * Serve `content(path)` (bytes, or null for status 404) on a free local port; `isOpen` to pages of other origins.
 * @returns {Promise<{url: string, close: () => void}>}
 */
export async function serve(content, {isolated = false, isOpen = false} = {}) {
  const headers = {...(isolated && ISOLATED), ...(isOpen && {'access-control-allow-origin': '*'})};
  const server = createServer(async (request, response) => {
    const {pathname} = new URL(request.url, 'http://localhost');
    const body = await content(pathname).catch(() => null);
    const type = TYPES[pathname === '/' ? '.html' : path.extname(pathname)] ?? 'application/octet-stream';
    response.writeHead(body === null ? 404 : 200, {'content-type': type, ...headers});
    response.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close()};
}
