import {startBackend} from './backend.js';
import {openBioClip} from './clip.js';
import {BioClipError} from './errors.js';
import {is} from './pixels.js';
import type {BioClip, Progress} from './types.js';
import type {Port, Reply, Request} from './worker-protocol.js';

/** Answer the requests of `loadInWorker` that come through a port. */
export function serve(port: Port): void {
  const running = new Map<number, AbortController>();
  let clip: BioClip | null = null;

  const reply = (message: Reply, transfer: Transferable[] = []) => port.postMessage(message, transfer);

  function loaded(): BioClip {
    if (!clip) throw new BioClipError('worker', 'no bundle has been loaded in this worker');
    return clip;
  }

  async function answer(request: Request, signal: AbortSignal): Promise<void> {
    const {call} = request;
    if (request.kind === 'load') {
      const {source, options} = request;
      reply({call, received: true});
      clip?.dispose();
      const onProgress = (progress: Progress) => reply({call, progress});
      const all = {...options, signal, onProgress};
      clip = await openBioClip(source, all, startBackend(all));
      reply({call, value: {info: clip.info, sha256: clip.sha256, backend: clip.backend}});
    } else if (request.kind === 'preload') {
      await loaded().preload(request.names, {signal, onProgress: (progress) => reply({call, progress})});
      reply({call, value: null});
    } else if (request.kind === 'classify' || request.kind === 'embed') {
      const {images} = request;
      const options = {...request.options, signal};
      try {
        const value =
          request.kind === 'embed' ? loaded().embed(images[0]!, options) : loaded().classify(images, options);
        reply({call, value: await value});
      } finally {
        for (const image of images) if (is(image, 'ImageBitmap')) image.close();
      }
    }
  }

  port.addEventListener('message', async ({data: request}: {data: Request}) => {
    if (request.kind === 'abort') {
      running.get(request.call)?.abort();
      return;
    }
    if (request.kind === 'dispose') {
      clip?.dispose();
      clip = null;
      return;
    }
    const stop = new AbortController();
    running.set(request.call, stop);
    try {
      await answer(request, stop.signal);
    } catch (error) {
      const {message, name} = error instanceof Error ? error : new Error(String(error));
      const {code, file} = error instanceof BioClipError ? error : {code: null, file: null};
      reply({call: request.call, error: {message, name, code, file}});
    } finally {
      running.delete(request.call);
    }
  });
  port.start?.();
}
