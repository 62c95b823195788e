//! Which files of a package import which, read from their syntax: re-exports are followed to the file that defines a name,
//! and what is compiled for tests only does not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, UseTree, Visibility, visit::Visit};

/// A module's place in its package: the names that lead to it.
type Place = Vec<String>;

#[derive(Default)]
struct Module {
    file: PathBuf,
    defined: BTreeSet<String>,
    /// Whether it is seen outside, the path, and what it is called here.
    uses: Vec<(bool, Vec<String>, String)>,
    /// Paths in the code itself.
    named: Vec<Vec<String>>,
    /// Single names in the code: a re-export that is used where it stands is an import, too.
    words: BTreeSet<String>,
}

/// A package's modules.
#[derive(Default)]
pub struct Package {
    modules: BTreeMap<Place, Module>,
}

fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn leaves(tree: &UseTree, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let with = |name: String| [before, &[name]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &with(path.ident.to_string()), found),
        UseTree::Name(name) if name.ident == "self" => found.push((before.to_vec(), before.last().cloned().unwrap_or_default())),
        UseTree::Name(name) => found.push((with(name.ident.to_string()), name.ident.to_string())),
        UseTree::Rename(name) => found.push((with(name.ident.to_string()), name.rename.to_string())),
        UseTree::Glob(_) => found.push((with("*".to_owned()), "*".to_owned())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, before, found)),
    }
}

struct Names<'a>(&'a mut Module);

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        match names.as_slice() {
            [one] => drop(self.0.words.insert(one.clone())),
            _ => self.0.named.push(names),
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        let text = called.tokens.to_string().replace(" :: ", "::");
        for word in text.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':')) {
            match word.contains("::") {
                true => self.0.named.push(word.split("::").map(str::to_owned).collect()),
                false => drop(self.0.words.insert(word.to_owned())),
            }
        }
        syn::visit::visit_macro(self, called);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        if !for_tests(attributes(item)) && !matches!(item, Item::Use(_)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

impl Package {
    /// Reads a package from the file of its root.
    pub fn read(root: &Path) -> Self {
        let mut package = Self::default();
        package.file(root, Vec::new());
        package
    }

    pub fn files(&self) -> usize {
        self.modules.values().map(|module| &module.file).collect::<BTreeSet<_>>().len()
    }

    fn file(&mut self, path: &Path, place: Place) {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.module(path, place, &parsed.items);
    }

    fn module(&mut self, path: &Path, place: Place, items: &[Item]) {
        let mut module = Module { file: path.to_owned(), ..Module::default() };
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let under =
            if matches!(stem, "lib" | "mod" | "main") { path.parent().unwrap().to_owned() } else { path.with_extension("") };
        for item in items.iter().filter(|item| !for_tests(attributes(item))) {
            match item {
                Item::Use(item) => {
                    let mut found = Vec::new();
                    leaves(&item.tree, &[], &mut found);
                    let public = !matches!(item.vis, Visibility::Inherited);
                    module.uses.extend(found.into_iter().map(|(path, name)| (public, path, name)));
                }
                Item::Mod(item) => {
                    let child = [&place[..], &[item.ident.to_string()]].concat();
                    match &item.content {
                        Some((_, items)) => self.module(path, child, items),
                        None => {
                            let files =
                                [under.join(format!("{}.rs", item.ident)), under.join(item.ident.to_string()).join("mod.rs")];
                            if let Some(file) = files.iter().find(|file| file.exists()) {
                                self.file(file, child);
                            }
                        }
                    }
                }
                item => {
                    let name = match item {
                        Item::Const(item) => Some(&item.ident),
                        Item::Enum(item) => Some(&item.ident),
                        Item::Fn(item) => Some(&item.sig.ident),
                        Item::Macro(item) => item.ident.as_ref(),
                        Item::Static(item) => Some(&item.ident),
                        Item::Struct(item) => Some(&item.ident),
                        Item::Trait(item) => Some(&item.ident),
                        Item::Type(item) => Some(&item.ident),
                        _ => None,
                    };
                    module.defined.extend(name.map(ToString::to_string));
                    Names(&mut module).visit_item(item);
                }
            }
        }
        self.modules.insert(place, module);
    }

    /// The module that defines what a path names, as far as that is in this package.
    fn defines(&self, from: &Place, path: &[String], depth: usize) -> Option<Place> {
        let first = path.first()?;
        let child = |at: &Place, name: &String| {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            self.modules.contains_key(&child).then_some(child)
        };
        let (mut at, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.clone(), &path[1..]),
            "super" => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                (from[..from.len().checked_sub(ups)?].to_vec(), &path[ups..])
            }
            _ if child(from, first).is_some() => (from.clone(), path),
            _ => {
                // A module that was imported under this name.
                let (_, imported, _) = self.modules.get(from)?.uses.iter().find(|(_, _, name)| name == first)?;
                let local = matches!(imported.first()?.as_str(), "crate" | "self" | "super");
                let whole = [imported, &path[1..]].concat();
                return if local && depth > 0 { self.defines(from, &whole, depth - 1) } else { None };
            }
        };
        while let Some(name) = rest.first() {
            if let Some(child) = child(&at, name) {
                (at, rest) = (child, &rest[1..]);
                continue;
            }
            let module = self.modules.get(&at)?;
            if module.defined.contains(name) || name == "*" || depth == 0 {
                return Some(at);
            }
            let again = |path: Vec<String>| self.defines(&at, &path, depth - 1);
            if let Some((_, imported, _)) = module.uses.iter().find(|(_, _, called)| called == name) {
                return again(imported.clone());
            }
            let globs = module.uses.iter().filter(|(_, _, called)| called == "*");
            return globs
                .filter_map(|(_, imported, _)| again([&imported[..imported.len() - 1], std::slice::from_ref(name)].concat()))
                .next();
        }
        // A module alone: what is used of it is named elsewhere.
        None
    }

    /// Which files import which.
    fn arrows(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut arrows: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        for (place, module) in &self.modules {
            let used = module.uses.iter().filter(|(public, _, name)| !public || module.words.contains(name));
            for path in used.map(|(_, path, _)| path).chain(&module.named) {
                if let Some(there) = self.defines(place, path, 12).and_then(|there| self.modules.get(&there))
                    && there.file != module.file
                {
                    arrows.entry(&module.file).or_default().insert(&there.file);
                }
            }
        }
        arrows
    }

    /// The rooms that each room imports from. A room is a module of the package's root with all that is in it.
    pub fn rooms(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut rooms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (place, module) in self.modules.iter().filter(|(place, _)| !place.is_empty()) {
            let used = module.uses.iter().filter(|(public, _, name)| !public || module.words.contains(name));
            for path in used.map(|(_, path, _)| path).chain(&module.named) {
                let there = self.defines(place, path, 12).and_then(|there| self.modules.get_key_value(&there));
                if let Some((there, _)) = there.filter(|(there, _)| !there.is_empty() && there[0] != place[0]) {
                    rooms.entry(&place[0]).or_default().insert(&there[0]);
                }
            }
        }
        rooms
    }

    /// The files that import each other in a loop, for each loop; the largest first.
    pub fn loops(&self) -> Vec<Vec<PathBuf>> {
        let arrows = self.arrows();
        let reached = |from: &Path| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(file) = open.pop() {
                for next in arrows.get(file).into_iter().flatten() {
                    if seen.insert(*next) {
                        open.push(next);
                    }
                }
            }
            seen
        };
        let reach: BTreeMap<&Path, BTreeSet<&Path>> = arrows.keys().map(|file| (*file, reached(file))).collect();
        let mut loops = BTreeSet::new();
        for (file, reached) in &reach {
            let all: Vec<PathBuf> = reached
                .iter()
                .filter(|other| reach.get(**other).is_some_and(|back| back.contains(file)))
                .map(|file| file.to_path_buf())
                .collect();
            if all.len() > 1 {
                loops.insert(all);
            }
        }
        let mut loops: Vec<_> = loops.into_iter().collect();
        loops.sort_by_key(|files| std::cmp::Reverse(files.len()));
        loops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(files: &[(&str, &str)]) -> Package {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Package::read(&dir.path().join("lib.rs"))
    }

    #[test]
    fn a_loop_is_found_through_re_exports_paths_and_macros_and_not_where_only_tests_close_it() {
        let found = package(&[
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a/mod.rs", "mod inner; pub use inner::One;"),
            ("a/inner.rs", "pub struct One; fn f() { println!(\"{}\", crate::b::two()); }"),
            ("b.rs", "use crate::c::Three; pub fn two() -> Three { Three }"),
            ("c.rs", "use crate::a; pub struct Three; fn f() -> a::One { a::One }"),
            ("d.rs", "use crate::a::One; #[cfg(test)] mod tests { use crate::b::two; }"),
        ]);
        let loops = found.loops();
        let names: Vec<_> = loops.iter().flatten().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!((loops.len(), names), (1, vec!["inner.rs", "b.rs", "c.rs"]));
        assert_eq!(found.files(), 6);
    }
}
