import { expect, test } from 'vitest';
import { labels, taskFilter } from './filter';

test('what is not a status is left out of the filter, so that a mistyped address still shows something', () => {
  expect(taskFilter({ status: ['DEAD', 'NONSENSE'] }).status).toEqual(['DEAD']);
  expect(taskFilter({ status: ['NONSENSE'] }).status).toBeUndefined();
});

test('labels are pairs, and a value may hold an equals sign', () => {
  expect(labels('team=core  query=a=b oops =x')).toEqual([
    { key: 'team', value: 'core' },
    { key: 'query', value: 'a=b' },
  ]);
});
