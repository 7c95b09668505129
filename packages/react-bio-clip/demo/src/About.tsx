/** The model's origin, the meaning of its answers, and credits. */

import type {BundleInfo} from 'react-bio-clip';
import type {ReactNode} from 'react';

import {many, megabytes, percent, taxaOf} from './names.js';

/** A text, a number, or a table of them. Hashes are shortened: their start tells them apart. */
function Value({of}: {of: unknown}): ReactNode {
  if (of === null || of === undefined || of === '') return 'not stated';
  if (typeof of === 'number') return of.toLocaleString('en');
  if (typeof of === 'string' && /^[0-9a-f]{40,}$/.test(of)) return <code title={of}>{of.slice(0, 12)}</code>;
  if (typeof of !== 'object') return String(of);
  return <Lines of={of} />;
}

function Lines({of}: {of: object | undefined}): ReactNode {
  const entries = Object.entries(of ?? {}).map(([key, value]) => lineOf(key, value));
  if (!entries.length) return <p>Not stated.</p>;
  return (
    <ul>
      {entries.map(([what, value]) => (
        <li key={what}>
          {what.replaceAll('_', ' ')}: <Value of={value} />
        </li>
      ))}
    </ul>
  );
}

/** Show rows {name, photographs} as "name: photographs". */
function lineOf(key: string, value: unknown): [string, unknown] {
  if (typeof value !== 'object' || value === null || !('name' in value)) return [key, value];
  const {name, ...rest} = value;
  const values = Object.values(rest);
  return [String(name ?? 'unknown'), values.length === 1 ? values[0] : rest];
}

export function About({info}: {info: BundleInfo}): ReactNode {
  const {model, thresholds} = info;
  const byName = info.text.parts?.zero_shot ?? info.taxa.filter(({zero_shot}) => zero_shot).length;
  const facts: [string, string | null][] = [
    ['Knows', `${taxaOf(info).toLocaleString('en')} taxa`],
    ['Of them by name alone', byName ? many(byName) : null],
    ['Download', megabytes(info.bytes)],
    ['Parameters', model.parameters === undefined ? null : many(model.parameters)],
    ['Multiply-adds per photo', model.macs === undefined ? null : many(model.macs)],
    ['Operations in its graph', model.nodes === undefined ? null : many(model.nodes)],
    ['Looks at', `${info.preprocess.size} × ${info.preprocess.size} pixels`],
  ];
  return (
    <details className="about">
      <summary>About this model</summary>
      <div className="about-parts">
        <section>
          <h3>How sure is sure?</h3>
          {thresholds ? (
            <>
              <p>
                The answer is the lowest rank whose probability reaches the threshold below. The thresholds were set on
                photographs that the model did not learn from, so that at least {percent(thresholds.level)} of its
                answers are right. With other cameras, places or species fewer may be.
                {byName > 0 &&
                  ` For ${many(byName)} taxa that it knows by name alone, without a photo to learn from, nothing is promised.`}
              </p>
              <dl>
                {info.ranks.map((rank) => (
                  <div key={rank}>
                    <dt>{rank}</dt>
                    <dd>{thresholds.ranks[rank] == null ? 'never answers' : percent(thresholds.ranks[rank])}</dd>
                  </div>
                ))}
              </dl>
            </>
          ) : (
            <p>This model is not calibrated: no thresholds were set, so it gives its best guess, sure or not.</p>
          )}
        </section>
        <div>
          <section>
            <h3>The model</h3>
            <dl>
              {facts.map(
                ([what, value]) =>
                  value !== null && (
                    <div key={what}>
                      <dt>{what}</dt>
                      <dd>{value}</dd>
                    </div>
                  ),
              )}
            </dl>
          </section>
          <section>
            <h3>Provenance</h3>
            <Lines of={info.provenance} />
          </section>
        </div>
        <div>
          <section>
            <h3>Licences</h3>
            <Lines of={info.licences} />
          </section>
          <section>
            <h3>Photographs it learnt from</h3>
            <Lines of={info.attribution} />
          </section>
        </div>
      </div>
    </details>
  );
}
