/** A model that lives as long as a component is mounted, from any loader: for the page, a worker, a device. */

import {useCallback, useEffect, useRef, useState} from 'react';

import type {Answer, BioClip, ClassifyOptions, ImageInput, LoadOptions, Progress} from '../core/types.js';

export type Loader<S, C extends BioClip = BioClip> = (source: S, options: LoadOptions) => Promise<C>;

export type UseBioClipOptions = Omit<LoadOptions, 'signal' | 'onProgress'>;

/** Result of the hooks. `classify` never changes, so it may appear in a list of dependencies. */
export interface UseBioClip<C extends BioClip = BioClip> {
  clip: C | null;
  status: 'loading' | 'ready' | 'error';
  /** While loading, once something has arrived. */
  progress: Progress | null;
  error: Error | null;
  classify: (image: ImageInput | readonly ImageInput[], options?: ClassifyOptions) => Promise<Answer>;
}

type State<C extends BioClip> = Omit<UseBioClip<C>, 'classify'>;

const LOADING: State<never> = {clip: null, status: 'loading', progress: null, error: null};

/**
 * Load a model with `load`, and again when `source` or the backend changes; free it on unmount.
 *
 * A `source` that is no string is compared by identity: make it outside the component. While `source` is null nothing
 * is loaded. `load` and other options are read when loading starts. `classify` rejects with an AbortError if the
 * component unmounts or the source changes meanwhile, and with an Error before the model is ready.
 */
export function useBioClipFrom<S, C extends BioClip>(
  load: Loader<S, C>,
  source: S | null,
  options: UseBioClipOptions = {},
): UseBioClip<C> {
  const {backend} = options;
  const latest = useRef({load, options});
  const current = useRef<{clip: C; signal: AbortSignal} | null>(null);
  const [loaded, setLoaded] = useState<{source: S | null; backend: string | undefined; state: State<C>} | null>(null);

  useEffect(() => {
    latest.current = {load, options};
  });

  useEffect(() => {
    if (source === null) return undefined;
    const controller = new AbortController();
    const {signal} = controller;
    const set = (state: State<C>) => {
      if (!signal.aborted) setLoaded({source, backend, state});
    };

    const start = async () => {
      // React's StrictMode unmounts at once what it has mounted: a moment later it is certain whether this one stays.
      await Promise.resolve();
      if (signal.aborted) return;
      const onProgress = (progress: Progress) => set({...LOADING, progress});
      const clip = await latest.current.load(source, {...latest.current.options, signal, onProgress});
      if (signal.aborted) {
        clip.dispose();
        return;
      }
      current.current = {clip, signal};
      set({clip, status: 'ready', progress: null, error: null});
    };
    start().catch((error: unknown) => {
      set({...LOADING, status: 'error', error: error instanceof Error ? error : new Error(String(error))});
    });

    return () => {
      controller.abort();
      current.current?.clip.dispose();
      current.current = null;
    };
  }, [source, backend]);

  const classify = useCallback(async (image: ImageInput | readonly ImageInput[], asked: ClassifyOptions = {}) => {
    const now = current.current;
    if (!now) throw new Error('the model is not loaded yet: wait until status is "ready"');
    const {signal, release} = either(now.signal, asked.signal);
    try {
      const answer = await now.clip.classify(image, {...asked, signal});
      if (signal.aborted) throw signal.reason ?? aborted(); // React Native's signals give no reason
      return answer;
    } finally {
      release();
    }
  }, []);

  // Never render the state of an earlier source, not even once.
  const isCurrent = loaded !== null && loaded.source === source && loaded.backend === backend;
  return {...(isCurrent ? loaded.state : LOADING), classify};
}

const aborted = () => Object.assign(new Error('the component no longer waits for it'), {name: 'AbortError'});

/** A signal that aborts with either of two. Phones in use lack AbortSignal.any. */
function either(one: AbortSignal, other: AbortSignal | undefined): {signal: AbortSignal; release: () => void} {
  const controller = new AbortController();
  const signals = other ? [one, other] : [one];
  const abort = () => controller.abort(signals.find((signal) => signal.aborted)?.reason);
  for (const signal of signals) signal.addEventListener('abort', abort);
  if (signals.some((signal) => signal.aborted)) abort();
  return {
    signal: controller.signal,
    release() {
      for (const signal of signals) signal.removeEventListener('abort', abort);
    },
  };
}
