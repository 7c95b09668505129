/** View of one photograph: from a file, dropped, pasted, or from the camera, and all that the model says of it. */

import type {Answer, BundleInfo} from 'react-bio-clip';
import {BioClipCamera} from 'react-bio-clip/react';
import type {CameraLabels, UseBioClip} from 'react-bio-clip/react';
import {useCallback, useEffect, useId, useMemo, useRef, useState} from 'react';
import type {ChangeEvent, ReactNode} from 'react';

import {AnswerView, spoken} from './Answer.js';
import {openPhoto, unreadable} from './photographs.js';
import type {Photo} from './photographs.js';
import {useTexts} from './texts.js';
import {Trouble} from './Trouble.js';
import {WhereField, type Where} from './Where.js';

const CANDIDATES = {topK: 5};
const CAMERA = [
  ...(['preview', 'shutter', 'again', 'retry', 'starting', 'working'] as const),
  ...(['refused', 'missing', 'busy', 'insecure', 'failed'] as const),
];

interface Props {
  model: UseBioClip;
  info: BundleInfo | null;
  /** The photograph that was dropped or pasted last. */
  file: File | null;
  onFiles: (files: File[]) => void;
  /** Progress or failure of loading. */
  children: ReactNode;
}

export function One({model: {status, classify}, info, file, onFiles, children}: Props): ReactNode {
  const texts = useTexts();
  const {t} = texts;
  const [photo, setPhoto] = useState<Photo | null>(null);
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [error, setError] = useState<Error | string | null>(null);
  const [camera, setCamera] = useState(false);
  const [live, setLive] = useState(false);
  const [where, setWhere] = useState<Where>({});
  const picker = useRef<HTMLInputElement>(null);
  const cameraButton = useRef<HTMLButtonElement>(null);
  const label = useId();

  const start = useCallback(() => {
    setAnswer(null);
    setError(null);
  }, []);

  useEffect(() => {
    if (!file) return undefined;
    let isGone = false;
    start();
    setCamera(false);
    openPhoto(file).then((opened) => {
      if (isGone) opened?.release();
      else setPhoto(opened);
      if (!isGone && !opened) setError(file.name);
    });
    return () => {
      isGone = true;
    };
  }, [file, start]);
  useEffect(() => () => photo?.release(), [photo]);

  useEffect(() => {
    if (!photo || status !== 'ready') return undefined;
    const controller = new AbortController();
    classify(photo.bitmap, {...CANDIDATES, ...where, signal: controller.signal}).then(setAnswer, (failure: Error) => {
      if (!controller.signal.aborted && failure.name !== 'AbortError') setError(failure);
    });
    return () => controller.abort();
  }, [photo, status, classify, where]);

  const pick = (event: ChangeEvent<HTMLInputElement>) => {
    onFiles([...(event.target.files ?? [])]);
    event.target.value = ''; // so that the same photograph can be chosen again
  };
  const toggleCamera = () => {
    start();
    setPhoto(null);
    setLive(false);
    setCamera(!camera);
    cameraButton.current?.focus();
  };

  const options = useMemo(() => ({...CANDIDATES, ...where}), [where]);
  const labels = useMemo(
    () => Object.fromEntries(CAMERA.map((name) => [name, t(`camera.${name}`)])) as Partial<CameraLabels>,
    [t],
  );
  const level = info?.thresholds?.level ?? null;
  const isWorking = photo !== null && !answer && !error && status !== 'error';
  const announcement = answer ? spoken(answer, level, texts, !live) : '';
  const told = typeof error === 'string' ? unreadable(error, texts) : error?.message;

  return (
    <main className={photo || camera ? 'with-photo' : ''}>
      <section className="photo" aria-labelledby={label}>
        <h2 id={label} className="visually-hidden">
          {t('one.photograph')}
        </h2>
        {photo && <img src={photo.url} alt={photo.name ? t('one.yours.named', {name: photo.name}) : t('one.yours')} />}
        {camera && (
          <BioClipCamera
            classify={classify}
            ready={status === 'ready'}
            continuous={live}
            options={options}
            labels={labels}
            onAnswer={setAnswer}
            onPhoto={start}
          />
        )}
        {!photo && !camera && (
          <div className="empty">
            <Sprig />
            <p>
              {t('one.hint')}
              <span className="with-mouse"> {t('one.drop')}</span>
            </p>
          </div>
        )}
        <div className="buttons">
          <button type="button" className={camera ? '' : 'first'} onClick={() => picker.current?.click()}>
            {photo ? t('one.another') : t('one.open')}
          </button>
          <input
            ref={picker}
            type="file"
            accept="image/*"
            multiple
            aria-label={t('one.photograph')}
            hidden
            onChange={pick}
          />
          <button type="button" ref={cameraButton} aria-expanded={camera} onClick={toggleCamera}>
            {camera ? t('one.camera.close') : t('one.camera')}
          </button>
          {camera && (
            <label className="live">
              <input type="checkbox" checked={live} onChange={(event) => setLive(event.target.checked)} />
              <span>{t('one.live')}</span>
            </label>
          )}
        </div>
        {info?.prior && <WhereField onChange={setWhere} />}
      </section>

      <section className="answer" aria-label={t('one.answer')} aria-busy={isWorking}>
        <p className="visually-hidden" role="status">
          {announcement}
        </p>
        {children}
        {told && <Trouble title={t('failed')}>{told}</Trouble>}
        {answer && info && <AnswerView answer={answer} ranks={info.ranks} level={level} />}
        {answer?.missing && <p className="note">{t('answer.missing', {names: answer.missing.join(', ')})}</p>}
        {isWorking && status === 'ready' && <p className="note">{t('one.looking')}</p>}
        {!answer && !isWorking && !error && status === 'ready' && (
          <>
            <p className="note">{t('one.about')}</p>
            <Skeleton ranks={info?.ranks ?? []} />
          </>
        )}
      </section>
    </main>
  );
}

/** Placeholder of the answer on large screens. */
function Skeleton({ranks}: {ranks: readonly string[]}): ReactNode {
  const {rank} = useTexts();
  return (
    <ol className="path skeleton" aria-hidden="true">
      {ranks.map((name) => (
        <li key={name} className="guess">
          <span className="rank">{rank(name)}</span>
          <span />
          <span />
          <span className="bar" />
        </li>
      ))}
    </ol>
  );
}

/** A small tree, growing from the picture's lower edge. */
function Sprig(): ReactNode {
  return (
    <svg className="sprig" viewBox="0 0 120 96" aria-hidden="true">
      <path d="M60 92V72C60 58 36 62 36 46V44C36 34 20 36 20 22M36 44C36 34 52 36 52 22M60 72C60 58 86 62 86 46V22" />
      <circle cx="20" cy="16" r="5" />
      <circle className="found" cx="52" cy="13" r="8" />
      <circle cx="86" cy="16" r="5" />
    </svg>
  );
}
