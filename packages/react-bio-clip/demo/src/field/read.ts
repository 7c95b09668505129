/** Read photographs in a worker, so that the page stays responsive; in a page of one file, in the page itself. */

import {IS_ONE_FILE} from '../model.js';
import {readPhotograph, type Reading} from './reading.js';

type Reply = {reading: Reading} | {error: string};

let started: Worker | undefined;

/** `readPhotograph`. The caller waits for one photograph before it asks for the next. */
export const read = IS_ONE_FILE ? readPhotograph : readInWorker;

function readInWorker(file: File, size: number): Promise<Reading> {
  started ??= new Worker(new URL('./reading-worker.ts', import.meta.url), {type: 'module'});
  const worker = started;
  return new Promise((resolve, reject) => {
    const fail = () => {
      started = undefined;
      reject(new Error('the worker that reads photographs failed'));
    };
    worker.addEventListener('error', fail, {once: true});
    worker.onmessage = ({data}: MessageEvent<Reply>) => {
      worker.removeEventListener('error', fail);
      if ('reading' in data) resolve(data.reading);
      else reject(new Error(data.error));
    };
    worker.postMessage({file, size});
  });
}
