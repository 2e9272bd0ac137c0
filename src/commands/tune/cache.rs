//! What was found by timing on which device, kept in a small file in the user's cache folder.
//!
//! Nothing depends on it but time: names that mean nothing here are passed over, a damaged file is written
//! anew, and where none can be written every run times for itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use crate::config::Precision;
use crate::error::{Error, Result};

/// Names the folder, in place of the user's cache folder.
pub const FOLDER_VARIABLE: &str = "HLX_CACHE_DIR";

/// The number is raised whenever the file has something else in it: versions of hlx that disagree have a file
/// each, and none takes the other's for a damaged one.
const FILE: &str = "tuning-1.json";

/// The longest file that is read, in bytes.
const LONGEST_FILE: u64 = 4 << 20;

/// Places and products of each that are kept, the newest.
const MOST_PLACES: usize = 32;
const MOST_PRODUCTS: usize = 1000;

/// What a time depends on beside the product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub device: String,
    pub vendor_id: u32,
    pub device_id: u32,
    pub driver: String,
    /// [`crate::kernels::kernels_hash`].
    pub kernels_hash: String,
    pub precision: Precision,
}

/// What was found at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    #[serde(flatten)]
    place: Place,
    /// The names of the ways to take, by product.
    products: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// The newest last.
    places: Vec<Found>,
}

/// The file, if the user has a cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    path: Option<PathBuf>,
}

impl Cache {
    /// The user's own.
    pub fn of_user() -> Cache {
        let chosen = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let usual = || Some(etcetera::base_strategy::choose_native_strategy().ok()?.cache_dir().join("hlx"));
        Cache { path: chosen.or_else(usual).map(|folder| folder.join(FILE)) }
    }

    /// The one in a folder.
    #[cfg(test)]
    pub fn in_folder(folder: &Path) -> Cache {
        Cache { path: Some(folder.join(FILE)) }
    }

    /// What was found at a place; nothing if the file is not there. Says so if it is damaged.
    pub fn read(&self, place: &Place) -> BTreeMap<String, String> {
        let Some(path) = &self.path else { return BTreeMap::new() };
        let found = content(path).unwrap_or_else(|why| {
            tracing::warn!("{} is no cache of tiles ({why}): it will be written anew", path.display());
            vec![]
        });
        found.into_iter().find(|found| found.place == *place).map(|found| found.products).unwrap_or_default()
    }

    /// Adds what was found at a place to what is there. Of two that write at once, one may be lost; neither
    /// spoils the other.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be written.
    pub fn add(&self, place: &Place, products: &BTreeMap<String, String>) -> Result<()> {
        let Some(path) = &self.path else {
            return Err(Error::Input("there is no folder for caches".to_owned()));
        };
        let mut places = content(path).unwrap_or_default();
        let before = places.iter().position(|found| found.place == *place).map(|at| places.remove(at));
        let mut all = before.map(|found| found.products).unwrap_or_default();
        if all.len() + products.len() > MOST_PRODUCTS {
            all.clear();
        }
        all.extend(products.clone());
        places.push(Found { place: place.clone(), products: all });
        places.drain(..places.len().saturating_sub(MOST_PLACES));
        let content = Content { places };
        let text = serde_json::to_string_pretty(&content).expect("names and numbers are JSON") + "\n";
        replace(path, text.as_bytes()).map_err(Error::io("cannot write", path))
    }
}

/// The places in a file, none if it is not there; else what is wrong with it.
fn content(path: &Path) -> std::result::Result<Vec<Found>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(format!("it has more than {LONGEST_FILE} bytes"));
    }
    let content: Content = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(content.places)
}

/// Replaces a file: a reader sees the old or the new one. Each writer has a temporary file of its own.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}.tmp", process::id()));
    let replaced = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(driver: &str) -> Place {
        Place {
            device: "a card".into(),
            vendor_id: 1,
            device_id: 2,
            driver: driver.into(),
            kernels_hash: "k".into(),
            precision: Precision::F32,
        }
    }

    fn products(names: &[(&str, &str)]) -> BTreeMap<String, String> {
        names.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect()
    }

    #[test]
    fn what_was_added_is_read_at_its_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(&folder.path().join("not there yet"));
        assert_eq!(cache.read(&place("1")), products(&[]));
        cache.add(&place("1"), &products(&[("p", "x"), ("q", "y")])).unwrap();
        cache.add(&place("2"), &products(&[("p", "z")])).unwrap();
        cache.add(&place("1"), &products(&[("q", "v"), ("r", "w")])).unwrap();
        assert_eq!(cache.read(&place("1")), products(&[("p", "x"), ("q", "v"), ("r", "w")]));
        assert_eq!(cache.read(&place("2")), products(&[("p", "z")]));
        let others = [
            Place { device: "another".into(), ..place("1") },
            Place { vendor_id: 3, ..place("1") },
            Place { device_id: 3, ..place("1") },
            Place { driver: "3".into(), ..place("1") },
            Place { kernels_hash: "l".into(), ..place("1") },
            Place { precision: Precision::Mixed, ..place("1") },
        ];
        for other in others {
            assert_eq!(cache.read(&other), products(&[]), "{other:?}");
        }
    }

    #[test]
    fn the_file_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path());
        for number in 0..MOST_PLACES + 3 {
            cache.add(&place(&number.to_string()), &products(&[("p", "x")])).unwrap();
        }
        let found = content(&folder.path().join(FILE)).unwrap();
        assert_eq!((found.len(), found[0].place.driver.as_str()), (MOST_PLACES, "3"));
        let many = |first: usize| (first..first + 600).map(|i| (format!("p{i}"), "x".to_owned())).collect();
        cache.add(&place("many"), &many(0)).unwrap();
        cache.add(&place("many"), &many(600)).unwrap();
        assert_eq!(cache.read(&place("many")).len(), 600);
    }

    #[test]
    fn a_damaged_file_is_passed_over_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, path) = (Cache::in_folder(folder.path()), folder.path().join(FILE));
        cache.add(&place("1"), &products(&[("p", "x")])).unwrap();
        let whole = fs::read(&path).unwrap();
        let text = String::from_utf8(whole.clone()).unwrap();
        let damaged = [
            vec![],
            b"\xff\xfe".to_vec(),
            whole[..whole.len() / 2].to_vec(),
            text.replace("\"p\": \"x\"", "\"p\": 7").into_bytes(),
            text.replace("\"device_id\": 2", "\"device_id\": -2").into_bytes(),
            b"[".repeat(100_000),
            vec![b' '; LONGEST_FILE as usize + 1],
        ];
        for bytes in damaged {
            assert_ne!(bytes, whole);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(cache.read(&place("1")), products(&[]));
            cache.add(&place("2"), &products(&[("q", "y")])).unwrap();
            assert_eq!(cache.read(&place("2")), products(&[("q", "y")]));
        }
    }

    /// Another version of hlx may be at home here too.
    #[test]
    fn files_of_other_layouts_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path());
        let others = ["tuning.json", "tuning-0.json", "tuning-2.json"].map(|name| folder.path().join(name));
        for other in &others {
            fs::write(other, r#"{ "places": "elsewhere" }"#).unwrap();
        }
        cache.add(&place("1"), &products(&[("p", "x")])).unwrap();
        assert_eq!(cache.read(&place("1")), products(&[("p", "x")]));
        for other in &others {
            assert_eq!(fs::read_to_string(other).unwrap(), r#"{ "places": "elsewhere" }"#, "{other:?}");
        }
    }

    /// Whoever reads meanwhile sees a whole file, and at the end nothing but the file is there.
    #[test]
    fn many_writers_do_not_spoil_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path());
        let all = products(&[("p", &"x".repeat(5000))]);
        cache.add(&place("0"), &all).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (cache, all) = (&cache, &all);
                scope.spawn(move || {
                    for turn in 0..50 {
                        cache.add(&place(&format!("{writer} {turn}")), all).unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let found = content(&folder.path().join(FILE)).expect("a whole file");
                assert!(found.iter().all(|found| found.products == all));
            }
        });
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let cache = Cache::in_folder(&folder.path().join("file"));
        assert!(cache.add(&place("1"), &products(&[])).unwrap_err().to_string().contains("cannot write"));
        assert!(Cache { path: None }.add(&place("1"), &products(&[])).is_err());
    }
}
