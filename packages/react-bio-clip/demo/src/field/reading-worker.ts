/** Worker that reads photographs beside the page, one at a time. */

import {readPhotograph} from './reading.js';

addEventListener('message', async ({data: {file, size}}: MessageEvent<{file: File; size: number}>) => {
  try {
    const reading = await readPhotograph(file, size);
    postMessage({reading}, {transfer: [reading.bitmap]});
  } catch (error) {
    postMessage({error: String(error)});
  }
});
