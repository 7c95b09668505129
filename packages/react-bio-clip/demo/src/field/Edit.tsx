/** Dialog about one photograph: choose a candidate or another taxon of the list, nothing of it, or delete the note. */

import {useMemo, useState} from 'react';
import type {ReactNode} from 'react';

import {Name} from '../Answer.js';
import {common, percent} from '../names.js';
import type {Named} from '../names.js';
import {useTexts} from '../texts.js';
import {Dialog} from './Dialog.js';
import {answerOf, isSame} from './Observations.js';
import type {Decision, Note} from './store.js';
import {search, type ListedTaxon} from './taxa.js';
import {Thumbnail} from './Thumbnail.js';

/** Taxa that a search shows; the count tells whether there are more. */
const SHOWN = 12;

interface Props {
  note: Note;
  taxa: readonly ListedTaxon[];
  onDecide: (path: Decision['path'] | undefined) => void;
  onDelete: () => void;
  onClose: () => void;
}

export function Edit({note, taxa, onDecide, onDelete, onClose}: Props): ReactNode {
  const {t, counted, language} = useTexts();
  const [text, setText] = useState('');
  const found = useMemo(() => search(taxa, text, language), [taxa, text, language]);
  const {answer, decision} = note;
  const first = answerOf(note);
  const candidates = [...(first ? [first] : []), ...answer.taxa.filter(({path}) => !isSame(path, first?.path ?? null))];
  const choose = (path: Decision['path'] | undefined) => {
    onDecide(path);
    onClose();
  };
  const isChosen = (path: Decision['path']) => decision !== null && isSame(decision.path, path);
  return (
    <Dialog title={t('edit.title')} onClose={onClose}>
      <div className="edit">
        <figure>
          <Thumbnail of={note.thumbnail} alt={t('one.yours.named', {name: note.name})} />
          <figcaption className="note">{note.name}</figcaption>
        </figure>
        <div className="choices">
          <h3 id="choices">{t('answer.candidates')}</h3>
          <ul aria-labelledby="choices">
            {candidates.slice(0, 6).map((taxon) => (
              <Choice
                key={taxon.path.join('>')}
                of={taxon}
                share={taxon.probability}
                isChosen={isChosen(taxon.path)}
                onChoose={choose}
              />
            ))}
          </ul>
          <label className="search">
            <span>{t('edit.search')}</span>
            <input
              type="search"
              value={text}
              placeholder={t('edit.search.hint')}
              onChange={(event) => setText(event.target.value)}
            />
          </label>
          <p className="note" role="status">
            {text.trim() && counted('edit.found', found.length)}
          </p>
          {found.length > 0 && (
            <ul aria-label={t('edit.search')}>
              {found.slice(0, SHOWN).map((taxon) => (
                <Choice
                  key={taxon.path.join('>')}
                  of={taxon}
                  share={null}
                  isChosen={isChosen(taxon.path)}
                  onChoose={choose}
                />
              ))}
            </ul>
          )}
          <div className="buttons">
            <button type="button" aria-pressed={isChosen(null)} onClick={() => choose(null)}>
              {t('edit.none')}
            </button>
            {decision && (
              <button type="button" onClick={() => choose(undefined)}>
                {t('edit.undo')}
              </button>
            )}
            <button
              type="button"
              className="risky"
              onClick={() => {
                onDelete();
                onClose();
              }}
            >
              {t('edit.delete')}
            </button>
          </div>
        </div>
      </div>
    </Dialog>
  );
}

interface ChoiceProps {
  of: Named & {path: (string | null)[]};
  /** Probability; null where it is not known. */
  share: number | null;
  isChosen: boolean;
  onChoose: (path: (string | null)[]) => void;
}

function Choice({of, share, isChosen, onChoose}: ChoiceProps): ReactNode {
  const {rank, language} = useTexts();
  return (
    <li>
      <button type="button" aria-pressed={isChosen} onClick={() => onChoose(of.path)}>
        <span className="name">
          <Name of={of} />{' '}
          <span className="common" lang={language}>
            {common(of, language)}
          </span>
        </span>
        <span className="remark">{share === null ? rank(of.rank) : `${rank(of.rank)}, ${percent(share)}`}</span>
      </button>
    </li>
  );
}
