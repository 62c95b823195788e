import { expect, test } from 'vitest';
import { usable } from './elsewhere';

test('a page goes on only where its token is as safe as where it came from', () => {
  const all = [
    'http://10.0.0.1:7700',
    'http://10.0.0.2:7700',
    'http://10.0.0.2:7700',
    'https://hive.example',
    'http://127.0.0.1:7700',
    'http://localhost:7700',
    'http://[::1]:7700',
    'http://10.0.0.3:7700/path',
    'javascript:alert(1)',
    'no address',
  ];
  expect(usable(all, 'http://10.0.0.1:7700')).toEqual(['http://10.0.0.2:7700', 'https://hive.example']);
  expect(usable(all, 'https://other.example')).toEqual(['https://hive.example']);
  expect(usable(['http://127.0.0.1:2'], 'http://127.0.0.1:1')).toEqual(['http://127.0.0.1:2']);
});
