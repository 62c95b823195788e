// Names, labels, output, errors and results that try to be more than text.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, live, open, sound } from './support/browser.mjs';
import { Node } from './support/node.mjs';

const EVIL = [
  '<img src=x onerror="hit(1)">',
  '<script>hit(2)</script>',
  '"><svg onload=hit(3)>',
  'javascript:hit(4)',
  '</title><iframe srcdoc="<script>parent.hit(5)</script>">',
  '{{constructor.constructor("hit(6)")()}}',
];

let node;
let browser;
before(async () => {
  [node, browser] = await Promise.all([Node.start(), launch()]);
});
after(async () => {
  await browser?.close();
  await node?.stop();
});

test('nothing that came from data runs, on any screen that shows it', async () => {
  const all = EVIL.join(' ');
  const ids = [];
  for (const evil of EVIL) {
    ids.push(
      await node.submit({
        title: evil,
        labels: [{ key: 'evil', value: evil }],
        command: {
          argv: [
            'sh',
            '-c',
            'printf "%s\\n" "$0"; printf "%s\\n" "$0" >&2; printf "\\033]0;%s\\007\\033]8;;javascript:hit(7)\\007link\\033]8;;\\007" "$0"; exit 3',
            evil,
          ],
          env: [{ name: 'EVIL', value: evil }],
        },
        retry: { maxAttempts: 1 },
      }),
    );
  }
  const json = await node.submit({
    title: 'result',
    command: { argv: ['printf', '%s', JSON.stringify({ __proto__: { x: all }, html: all })] },
  });
  const named = [];
  for (const evil of EVIL) {
    // Not every name is allowed; those that are must do no harm.
    const agent = await node
      .agent({ name: evil, connector: { noop: true }, skills: [{ name: evil }] })
      .catch(() => undefined);
    if (agent) named.push(agent);
    await node
      .ask('mutation($i:CreateSwarmInput!){createSwarm(input:$i){cursor}}', { i: { name: evil } })
      .catch(() => undefined);
  }
  await node.cli('host', 'add', 'simulated://evil', '--name', 'evil');
  const vms = [];
  for (const evil of EVIL) {
    // Names of hosts and VMs, images, labels, networks, groups: each where it is allowed.
    await node
      .ask('mutation($i:RegisterHostInput!){registerHost(input:$i){cursor}}', {
        i: { name: evil, uri: 'simulated://x', zone: evil, labels: [{ key: 'evil', value: evil }] },
      })
      .catch(() => undefined);
    const make = (input) =>
      node
        .ask('mutation($i:CreateVmInput!){createVm(input:$i){vm{id}}}', {
          i: { cpus: 1, memoryBytes: 1 << 20, start: false, ...input },
        })
        .then(({ createVm }) => vms.push(createVm.vm.id))
        .catch(() => undefined);
    await make({ name: evil, image: evil, networks: [evil], antiAffinity: [evil] });
    await make({ name: `image-${vms.length}`, image: evil, sshKeys: [evil] });
  }
  vms.push(...(await node.ask('{vms{nodes{id}}}')).vms.nodes.map(({ id }) => id));
  const { hosts } = await node.ask('{hosts{nodes{id}}}');
  for (const id of ids) await node.ended(id, 'DEAD').catch(() => node.ended(id, 'FAILED'));
  await node.ended(json, 'SUCCEEDED');
  const page = await open(browser, node);
  await live(page);
  const visit = async (path, there) => {
    await page.goto(node.url + path);
    await page.locator(there).first().waitFor();
    await sound(page, path);
  };
  await visit('/ui/', 'text=/hit\\(/');
  await visit('/ui/tasks', 'text=/hit\\(/');
  await visit('/ui/tasks?view=table', 'text=/hit\\(/');
  for (const id of ids) {
    for (const tab of ['output', 'work', 'decision', 'events']) await visit(`/ui/tasks/${id}?tab=${tab}`, 'role=tab');
  }
  await visit(`/ui/tasks/${ids[0]}`, '[role=log] >> text=onerror');
  await visit(`/ui/tasks/${json}?tab=work`, 'text=/hit\\(/');
  for (const agent of named) await visit(`/ui/agents/${agent}?tab=settings`, 'role=tab');
  for (const path of ['/ui/agents', '/ui/swarms', '/ui/events?from=start', '/ui/spend', '/ui/cluster', '/ui/tree'])
    await visit(path, 'h1');
  for (const id of new Set(vms)) await visit(`/ui/vms/${id}`, 'h1');
  for (const { id } of hosts.nodes) await visit(`/ui/hosts/${id}`, 'h1');
  await visit('/ui/hosts', 'h1');
  for (const evil of EVIL) {
    await visit(`/ui/tasks?view=table&title=${encodeURIComponent(evil)}`, 'h1');
    await visit(`/ui/tree?find=${encodeURIComponent(evil)}`, 'h1');
    await visit(`/ui/${encodeURIComponent(evil)}`, 'text=There is no such page');
  }
  await page.goto(`${node.url}/ui/`);
  await live(page);
  await page.keyboard.press('/');
  await page.getByPlaceholder('A title, a name').waitFor();
  await page.keyboard.type('onerror');
  await page.getByRole('option').first().waitFor();
  await sound(page, 'search');
  assert.equal(await page.locator('iframe, img[src="x"], svg[onload]').count(), 0);
  const links = await page
    .locator('a')
    .evaluateAll((found) =>
      found.map((link) => link.getAttribute('href') ?? '').filter((to) => /^\s*javascript:/i.test(to)),
    );
  assert.deepEqual(links, []);
});

test('a script that did get into the page would not be run: the policy holds', async () => {
  const page = await open(browser, node);
  await live(page);
  await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'hit("inline")';
    document.body.append(script);
    document.body.insertAdjacentHTML('beforeend', '<img src="x" onerror="hit(\'handler\')">');
  });
  await page.waitForFunction(() => [...document.images].every((image) => image.complete));
  assert.deepEqual(await page.evaluate(() => window.__hits), []);
  assert.ok(
    page.faults.some((fault) => /Content Security Policy/.test(fault)),
    'the browser says that it refused',
  );
});
