/** View of many photographs: add them, look at the answers, and take the notes away as files. */

import type {BundleInfo} from 'react-bio-clip';
import {useMemo, useRef, useState} from 'react';
import type {ChangeEvent, ReactNode} from 'react';

import {megabytes} from '../names.js';
import {unreadable} from '../photographs.js';
import {useTexts} from '../texts.js';
import {Trouble} from '../Trouble.js';
import {Edit} from './Edit.js';
import {Export} from './Export.js';
import type {Batch, Notes} from './notes.js';
import {observations} from './observations.js';
import {Observations} from './Observations.js';
import {sizeOf} from './store.js';
import {listedTaxa} from './taxa.js';

interface Props {
  notes: Notes;
  info: BundleInfo | null;
  onFiles: (files: File[]) => void;
  /** Progress or failure of loading the model. */
  children: ReactNode;
}

export function FieldNotes({notes, info, onFiles, children}: Props): ReactNode {
  const texts = useTexts();
  const {t, counted} = texts;
  const [edited, setEdited] = useState<string | null>(null);
  const groups = useMemo(() => observations(notes.notes), [notes.notes]);
  const taxa = useMemo(() => (info ? listedTaxa(info) : []), [info]);
  const size = useMemo(() => sizeOf(notes.notes), [notes.notes]);
  const decided = notes.notes.filter(({decision}) => decision).length;
  const note = notes.notes.find(({key}) => key === edited);

  const removeAll = () => {
    if (!window.confirm(counted('field.delete.sure', notes.notes.length))) return;
    notes.stop();
    notes.remove(notes.notes.map(({key}) => key));
  };

  return (
    <main className="field">
      <section className="add">
        <Pickers onFiles={onFiles} />
        {children}
        {notes.batch && <Progress batch={notes.batch} isWaiting={!info} onStop={notes.stop} />}
        {notes.failure && <Trouble title={t('failed')}>{notes.failure}</Trouble>}
        {notes.unkept && <Trouble title={t('failed')}>{t('field.nostore', {reason: notes.unkept})}</Trouble>}
        {notes.unread.length > 0 && (
          <Trouble title={counted('field.unread', notes.unread.length)}>
            <ul>
              {notes.unread.map((name, i) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: names may repeat, and lines are only added
                <li key={i}>{unreadable(name, texts)}</li>
              ))}
            </ul>
            <button type="button" onClick={notes.dismiss}>
              {t('field.dismiss')}
            </button>
          </Trouble>
        )}
      </section>

      {notes.notes.length === 0 && <p className="note">{t('field.empty')}</p>}
      {notes.notes.length > 0 && (
        <>
          <section className="summary">
            <p>
              {[
                counted('field.photographs', notes.notes.length),
                counted('field.observations', groups.length),
                counted('field.decided', decided),
                t('field.kept', {size: megabytes(size)}),
              ].join(' · ')}
            </p>
            <div className="buttons">
              {info && <Export groups={groups} info={info} taxa={taxa} />}
              <button type="button" className="risky" onClick={removeAll}>
                {t('field.delete.all')}
              </button>
            </div>
          </section>
          <Observations groups={groups} onDecide={notes.decide} onEdit={setEdited} />
        </>
      )}
      {note && (
        <Edit
          note={note}
          taxa={taxa}
          onDecide={(path) => notes.decide([note.key], path)}
          onDelete={() => notes.remove([note.key])}
          onClose={() => setEdited(null)}
        />
      )}
    </main>
  );
}

function Pickers({onFiles}: {onFiles: (files: File[]) => void}): ReactNode {
  const {t} = useTexts();
  const photographs = useRef<HTMLInputElement>(null);
  const folder = useRef<HTMLInputElement>(null);
  const pick = ({target}: ChangeEvent<HTMLInputElement>) => {
    const files = [...(target.files ?? [])];
    // A folder holds other files too; those that someone chose one by one are all meant.
    onFiles(target === folder.current ? files.filter(({type}) => type.startsWith('image/')) : files);
    target.value = '';
  };
  return (
    <>
      <div className="buttons">
        <button type="button" className="first" onClick={() => photographs.current?.click()}>
          {t('field.add')}
        </button>
        <button type="button" className="with-mouse" onClick={() => folder.current?.click()}>
          {t('field.folder')}
        </button>
        <span className="note with-mouse">{t('field.drop')}</span>
      </div>
      <input
        ref={photographs}
        type="file"
        accept="image/*"
        multiple
        hidden
        aria-label={t('field.add')}
        onChange={pick}
      />
      <input ref={folder} type="file" webkitdirectory="" hidden aria-label={t('field.folder')} onChange={pick} />
    </>
  );
}

interface ProgressProps {
  batch: Batch;
  isWaiting: boolean;
  onStop: () => void;
}

function Progress({batch: {done, total, added, known}, isWaiting, onStop}: ProgressProps): ReactNode {
  const {t, counted, number} = useTexts();
  const isDone = done === total;
  const end = [counted('field.done', added), ...(known ? [counted('field.known', known)] : [])].join(' ');
  const now = t('field.working', {done: number(done), total: number(total)});
  return (
    <div className="batch">
      <p role="status">{isDone && end}</p>
      {!isDone && (
        <>
          <label className="loading">
            <span>{isWaiting ? `${now}. ${t('field.waiting')}` : now}</span>
            <progress max={total} value={done} />
          </label>
          <button type="button" onClick={onStop}>
            {t('field.stop')}
          </button>
        </>
      )}
    </div>
  );
}
