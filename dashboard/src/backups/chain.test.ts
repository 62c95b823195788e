import { expect, test } from 'vitest';
import { chains, nameOf, placeOf } from './chain';

const row = (path: string, minute: number, basis: string | null = null) => ({
  path,
  basis,
  takenAt: new Date(minute * 60_000).toISOString(),
});
const shape = (rows: ReturnType<typeof row>[]) =>
  chains(rows).map(({ rows: its, missing }) => [its.map(({ path }) => path).join(), missing]);

test('what is based on another is shown with it, oldest first, and the newest chain first', () => {
  const rows = [row('/b/1', 1), row('/b/2', 2, '/b/1'), row('/b/4', 4), row('/b/3', 3, '/b/2')];
  expect(shape(rows)).toEqual([
    ['/b/4', undefined],
    ['/b/1,/b/2,/b/3', undefined],
  ]);
});

test('what its basis is missing of says so, also when it goes round in a circle', () => {
  expect(shape([row('/b/3', 3, '/b/2'), row('/b/4', 4, '/b/3')])).toEqual([['/b/3,/b/4', '/b/2']]);
  expect(shape([row('/b/1', 1, '/b/1')])).toEqual([['/b/1', '/b/1']]);
});

test('a path is a place and a name, in a directory and in a bucket', () => {
  expect([placeOf('/backups/web-1'), nameOf('/backups/web-1')]).toEqual(['/backups', 'web-1']);
  expect([placeOf('s3://store/vms/web-1'), nameOf('s3://store/vms/web-1')]).toEqual(['s3://store/vms', 'web-1']);
});
