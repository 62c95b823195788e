// Every screen, dark and light, on a desktop and a phone: nothing serious for axe, nothing wider than the page, no fault; and
// the pictures of the documentation are made here, so that they show what there is.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { accessible, DESKTOP, launch, live, open, PHONE, picture, sound } from './support/browser.mjs';
import { until } from './support/node.mjs';
import { scene } from './support/scene.mjs';

const SETTINGS = [
  { name: 'light', viewport: DESKTOP, scheme: 'light' },
  { name: 'dark', viewport: DESKTOP, scheme: 'dark' },
  { name: 'phone', viewport: PHONE, scheme: 'light' },
  { name: 'phone-dark', viewport: PHONE, scheme: 'dark' },
];

let hive;
let browser;
before(async () => {
  [hive, browser] = await Promise.all([scene(), launch()]);
  await ready();
});
after(async () => {
  await browser?.close();
  await hive?.node.stop();
});

/** An agent that works in VMs, of which two wait booted. */
async function ready() {
  const { node } = hive;
  await node.ask('mutation($i:CreateSwarmInput!){createSwarm(input:$i){swarm{id}}}', { i: { name: 'sandboxed' } });
  hive.sandboxed = await node.agent({
    name: 'sandboxed-1',
    swarm: 'sandboxed',
    session: { vm: { image: 'debian-12', memoryBytes: 2 ** 31, host: hive.host['rack-4'], warm: 2 } },
  });
  hive.warm = await until('two VMs wait', async () => {
    const { vms } = await node.ask('{vms{nodes{id status warmFor}}}');
    const found = vms.nodes.filter(({ status, warmFor }) => warmFor === hive.sandboxed && status === 'RUNNING');
    return found.length === 2 && found[0].id;
  });
}

/** Where each screen is, and what says that it is there. */
const screens = () => ({
  overview: ['/ui/', 'text=dead letter'],
  tasks: ['/ui/tasks', 'text=Build part 1'],
  'task-table': ['/ui/tasks?view=table', 'role=row >> nth=5'],
  task: [`/ui/tasks/${hive.long}`, 'text=/checked \\d+ queues/'],
  'task-dead': [`/ui/tasks/${hive.dead}?tab=decision`, 'text=was placed by'],
  'task-graph': [`/ui/tasks/${hive.release}?tab=graph`, '.react-flow__node >> nth=2'],
  'task-work': [`/ui/tasks/${hive.scatter}?tab=work`, 'text=Result'],
  'task-activity': [`/ui/tasks/${hive.coding}`, 'text=asks for'],
  'task-events': [`/ui/tasks/${hive.dead}?tab=events`, 'text=Task attempt ended'],
  agents: ['/ui/agents', 'text=builder-1'],
  'agent-table': ['/ui/agents?view=table', 'role=row >> nth=5'],
  agent: [`/ui/agents/${hive.coder}`, 'role=tab'],
  'agent-settings': [`/ui/agents/${hive.coder}?tab=settings`, 'text=Rules'],
  'agent-usage': [`/ui/agents/${hive.coder}?tab=usage`, 'role=img[name=/Tokens/]'],
  'agent-resources': [`/ui/agents/${hive.shell}?tab=resources`, 'role=img[name=/Memory/]'],
  'agent-terminal': [`/ui/agents/${hive.shell}`, '[data-phase="attached"]'],
  approvals: ['/ui/approvals', 'role=button[name="Allow"]'],
  supervision: ['/ui/tree', 'role=treeitem >> nth=5'],
  'supervision-actor': [`/ui/tree?actor=${encodeURIComponent(`node/agents/${hive.coder}`)}`, 'text=Inject a fault'],
  swarms: ['/ui/swarms', 'text=builders'],
  swarm: [`/ui/swarms/${hive.swarm.builders}`, '.react-flow__node >> nth=5'],
  'swarm-fleet': [`/ui/swarms/${hive.swarm.fleet}`, '.react-flow__node >> nth=1'],
  hosts: ['/ui/hosts', 'role=row >> nth=5'],
  'hosts-memory': ['/ui/hosts?by=memory', '[data-heat="4"] >> nth=0'],
  'hosts-used': ['/ui/hosts?by=memoryUsed', 'text=not known'],
  host: [`/ui/hosts/${hive.host['rack-2']}`, 'role=row >> nth=2'],
  'host-drained': [`/ui/hosts/${hive.host['rack-3']}`, 'text=Take VMs again'],
  vm: [`/ui/vms/${hive.vm.placed}`, 'text=(chosen)'],
  'vm-console': [`/ui/vms/${hive.vm.placed}?console=true`, '[data-phase="attached"]'],
  'vm-failed': [`/ui/vms/${hive.vm.broken}`, 'text=there is no image'],
  'vm-warm': [`/ui/vms/${hive.warm}`, 'text=booted ahead'],
  'agent-warm': [`/ui/agents/${hive.sandboxed}`, 'text=are ready for its next attempts'],
  'host-used': [`/ui/hosts/${hive.host['rack-4']}`, 'role=img[name=/^CPU/]'],
  rebalance: ['/ui/rebalance?hold=0', 'text=a gain of'],
  networks: ['/ui/networks', 'role=row >> nth=4'],
  network: [`/ui/networks/${hive.network.red}`, 'role=row >> nth=3'],
  backups: [`/ui/backups?in=${encodeURIComponent(hive.backups)}`, 'role=row >> nth=4'],
  cluster: ['/ui/cluster', 'text=Certificate'],
  events: ['/ui/events?from=start', '.event >> nth=5'],
  metrics: ['/ui/metrics', 'canvas >> nth=5'],
  spend: ['/ui/spend', 'progress'],
  nowhere: ['/ui/no-such-screen', 'text=There is no such page'],
});

for (const setting of SETTINGS) {
  describe(`in ${setting.name}`, () => {
    let page;
    before(async () => {
      page = await open(browser, hive.node, setting);
      await live(page);
    });
    after(() => page?.context().close());
    test('every screen is whole, accessible and within the page', async (t) => {
      for (const [name, [path, there]] of Object.entries(screens())) {
        await t.test(name, async () => {
          await page.goto(hive.node.url + path);
          await page.locator(there).first().waitFor();
          await live(page);
          await page.locator('[aria-busy="true"]').waitFor({ state: 'detached' });
          await picture(page, `${name}-${setting.name}`);
          await accessible(page, `${name} in ${setting.name}`);
          const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
          assert.ok(over <= 0, `${name} is ${over} px wider than the page`);
          await sound(page, name);
          page.faults.length = 0;
        });
      }
      await t.test('sign-in', async () => {
        const stranger = await open(browser, hive.node, { ...setting, token: '' });
        await stranger.getByLabel('Token').first().waitFor();
        await picture(stranger, `sign-in-${setting.name}`);
        await accessible(stranger, 'sign-in');
        await stranger.context().close();
      });
      await t.test('search and keys', async () => {
        await page.goto(`${hive.node.url}/ui/`);
        await live(page);
        await page.keyboard.press('/');
        await page.getByPlaceholder('A title, a name').fill('build');
        await page.getByRole('option', { name: /builder-1/ }).waitFor();
        await picture(page, `search-${setting.name}`);
        await accessible(page, 'search');
        await page.keyboard.press('Escape');
        await page.getByPlaceholder('A title, a name').waitFor({ state: 'detached' });
        await page.keyboard.press('?');
        await page.getByText('Search for a task').waitFor();
        await accessible(page, 'keys');
      });
    });
  });
}
