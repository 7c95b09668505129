import type {ReactNode} from 'react';

/** Tell what did not work, and why; screen readers say it at once. */
export function Trouble({title, children}: {title: string; children: ReactNode}): ReactNode {
  return (
    <div className="trouble" role="alert">
      <h2>{title}</h2>
      {typeof children === 'string' ? <p>{children}</p> : children}
    </div>
  );
}
