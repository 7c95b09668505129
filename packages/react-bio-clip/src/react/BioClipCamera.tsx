/** The camera of a phone or a computer, with the model's answers. */

import {useCallback, useEffect, useId, useRef, useState} from 'react';
import type {ReactNode} from 'react';

import type {Answer, ClassifyOptions, ImageInput} from '../core/types.js';
import {repeat, type PropsOf, type ViewOf} from './camera.js';

/** All texts of the component; replace them to translate it. */
export interface CameraLabels {
  preview: string;
  shutter: string;
  again: string;
  retry: string;
  starting: string;
  working: string;
  refused: string;
  missing: string;
  busy: string;
  insecure: string;
  failed: string;
}

export type CameraView = ViewOf<HTMLCanvasElement>;

export interface BioClipCameraProps extends PropsOf<HTMLCanvasElement, CameraLabels> {
  /** From `useBioClip` or a loaded model. It must stay the same between renders. */
  classify: (image: ImageInput, options?: ClassifyOptions) => Promise<Answer>;
  /** False while the model loads: the preview runs, the shutter waits. */
  ready?: boolean;
  className?: string;
}

const LABELS: CameraLabels = {
  preview: 'Camera preview',
  shutter: 'Take a photograph',
  again: 'Take another',
  retry: 'Try again',
  starting: 'Starting the camera …',
  working: 'Looking …',
  refused: 'The camera may not be used. Allow it for this page in the settings of the browser, then try again.',
  missing: 'There is no camera on this device.',
  busy: 'The camera does not answer. Another program may be using it.',
  insecure: 'Browsers give the camera only to pages from https or from this device itself (localhost).',
  failed: 'That did not work',
};

type Trouble = 'refused' | 'missing' | 'busy' | 'insecure';

const TROUBLES: Record<string, Trouble> = {
  NotAllowedError: 'refused',
  SecurityError: 'refused',
  NotFoundError: 'missing',
  OverconstrainedError: 'missing',
};

/** Prefer the camera on the back. The model needs no more pixels than these. */
const WANTED: MediaStreamConstraints = {
  audio: false,
  video: {facingMode: {ideal: 'environment'}, width: {ideal: 1280}, height: {ideal: 960}},
};

/**
 * Preview, shutter (or continuous answers), and a message where there is no camera or no permission.
 *
 * Its parts have the classes bioclip-camera, -preview, -controls, -message and -answer and no style but the width of
 * the preview. The camera is off while the component is not mounted; continuous answers pause in a hidden tab.
 */
export function BioClipCamera(props: BioClipCameraProps): ReactNode {
  const {classify, ready = true, continuous = false, interval = 300, className, children} = props;
  const labels = {...LABELS, ...props.labels};
  const latest = useRef(props);
  useEffect(() => {
    latest.current = props;
  });

  const video = useRef<HTMLVideoElement>(null);
  const pending = useRef<AbortController | null>(null);
  const message = useId();
  const [attempt, setAttempt] = useState(0);
  const [running, setRunning] = useState(false);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [view, setView] = useState<CameraView>({answer: null, working: false, error: null, photo: null});

  // biome-ignore lint/correctness/useExhaustiveDependencies: another attempt starts the camera again
  useEffect(() => {
    let stream: MediaStream | null = null;
    let gone = false;
    const stop = () => {
      for (const track of stream?.getTracks() ?? []) track.stop();
    };
    const fail = (kind: Trouble) => {
      if (gone) return;
      setRunning(false);
      setTrouble(kind);
    };
    const start = async () => {
      setTrouble(null);
      if (!navigator.mediaDevices?.getUserMedia) return fail('insecure');
      stream = await navigator.mediaDevices.getUserMedia(WANTED);
      const element = video.current;
      if (gone || !element) return stop();
      for (const track of stream.getTracks()) track.addEventListener('ended', () => fail('busy')); // unplugged
      element.srcObject = stream;
      await element.play();
      if (!gone) setRunning(true);
    };
    start().catch((error: unknown) => {
      stop();
      fail(TROUBLES[error instanceof Error ? error.name : ''] ?? 'busy');
    });
    return () => {
      gone = true;
      stop();
      setRunning(false);
    };
  }, [attempt]);

  /** Classify an image; null if the call was cancelled. */
  const look = useCallback(
    async (image: HTMLVideoElement | HTMLCanvasElement): Promise<Answer | null> => {
      const controller = new AbortController();
      pending.current?.abort();
      pending.current = controller;
      const photo = image instanceof HTMLCanvasElement ? image : null;
      setView((last) => ({...last, working: true, error: null}));
      try {
        const answer = await classify(image, {...latest.current.options, signal: controller.signal});
        if (controller.signal.aborted) return null;
        setView((last) => ({...last, answer, working: false}));
        latest.current.onAnswer?.(answer, photo);
        return answer;
      } catch (error) {
        if (controller.signal.aborted || (error as Error | null)?.name === 'AbortError') return null;
        setView((last) => ({
          ...last,
          working: false,
          error: error instanceof Error ? error : new Error(String(error)),
        }));
        return null;
      }
    },
    [classify],
  );
  // biome-ignore lint/correctness/useExhaustiveDependencies: an answer of another model is not waited for
  useEffect(() => () => pending.current?.abort(), [classify]);

  useEffect(() => {
    if (!continuous || !running || !ready) return undefined;
    setView((last) => ({...last, photo: null})); // of the shutter, which stopped the preview
    video.current?.play().catch(() => setTrouble('busy'));
    const stop = repeat(async () => {
      const element = video.current;
      if (element && !document.hidden) await look(element);
    }, interval);
    return () => {
      stop();
      pending.current?.abort();
    };
  }, [continuous, running, ready, interval, look]);

  const takePhoto = () => {
    const element = video.current;
    if (!element) return;
    const photo = document.createElement('canvas');
    [photo.width, photo.height] = [element.videoWidth, element.videoHeight];
    photo.getContext('2d')?.drawImage(element, 0, 0);
    element.pause();
    setView({answer: null, working: true, error: null, photo});
    latest.current.onPhoto?.(photo);
    void look(photo);
  };
  const back = () => {
    pending.current?.abort();
    setView({answer: null, working: false, error: null, photo: null});
    video.current?.play().catch(() => setTrouble('busy'));
  };

  return (
    <div className={className ? `bioclip-camera ${className}` : 'bioclip-camera'}>
      <video
        ref={video}
        className="bioclip-camera-preview"
        aria-label={labels.preview}
        hidden={trouble !== null}
        style={{width: '100%'}}
        autoPlay
        muted
        playsInline
      />
      {trouble && (
        <div className="bioclip-camera-message">
          <p id={message} role="alert">
            {labels[trouble]}
          </p>
          {trouble !== 'insecure' && (
            <button type="button" aria-describedby={message} onClick={() => setAttempt(attempt + 1)}>
              {labels.retry}
            </button>
          )}
        </div>
      )}
      {!trouble && !continuous && (
        <div className="bioclip-camera-controls">
          {view.photo ? (
            <button type="button" onClick={back}>
              {labels.again}
            </button>
          ) : (
            <button type="button" disabled={!running || !ready} onClick={takePhoto}>
              {labels.shutter}
            </button>
          )}
        </div>
      )}
      <div className="bioclip-camera-answer" aria-live="polite">
        {!trouble && !running && <p>{labels.starting}</p>}
        {view.error && (
          <p>
            {labels.failed}: {view.error.message}
          </p>
        )}
        {typeof children === 'function' ? children(view) : children}
        {view.working && !continuous && <p>{labels.working}</p>}
      </div>
    </div>
  );
}
