// The frame of a page about one entity: its name and key, what can be done to it, or that it is not there.
import { Link } from '@tanstack/react-router';
import type { ReactNode } from 'react';
import type { Live } from '../live/use_live';
import { CopyKey } from './key';
import { Empty, Freshness, PageHead, Shown } from './shown';

type Known = { __typename: string };

export function EntityPage<Data extends { node: Known | null }, Type extends NonNullable<Data['node']>['__typename']>({
  live,
  type,
  id,
  all,
  noun,
  children,
}: {
  live: Live<Data>;
  type: Type;
  id: string;
  all: { to: string; label: string };
  /** As in “There is no such …”. */
  noun: string;
  children: (entity: Extract<NonNullable<Data['node']>, { __typename: Type }>, data: Data) => ReactNode;
}) {
  return (
    <div className="page">
      <Shown live={live} rows={6}>
        {(data) =>
          data.node?.__typename === type ? (
            children(data.node as Extract<NonNullable<Data['node']>, { __typename: Type }>, data)
          ) : (
            <div className="card">
              <Empty title={`There is no such ${noun}`}>
                <span className="mono wrap">{id}</span> is not known here, or was removed.{' '}
                <Link to={all.to}>{all.label}</Link>
              </Empty>
            </div>
          )
        }
      </Shown>
    </div>
  );
}

export function EntityHead({
  title,
  id,
  live,
  children,
}: {
  title: string;
  id: string;
  live: { stale: boolean; at: number };
  /** What can be done to it. */
  children: ReactNode;
}) {
  return (
    <PageHead title={title} note={<CopyKey id={id} />}>
      <Freshness live={live} />
      {children}
    </PageHead>
  );
}
