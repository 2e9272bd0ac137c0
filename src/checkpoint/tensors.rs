//! Named f32 tensors in and out of safetensors bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};

use super::manifest::damaged;
use crate::error::{Error, Result, one_line};

/// A tensor to be written.
pub struct Tensor<'a> {
    pub name: String,
    pub shape: &'a [usize],
    pub values: &'a [f32],
}

impl View for &Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        bytemuck::cast_slice(self.values).into()
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// The bytes of a safetensors file, in the metadata that the transformers library asks for.
pub fn encode(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(tensors.iter().map(|t| (t.name.as_str(), t)), Some(metadata))
        .expect("each tensor has as many values as its shape says")
}

/// The BLAKE3 hash of each tensor's bytes, by name; `None` if these are not the bytes of a safetensors file.
pub fn tensor_hashes(bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let tensors = SafeTensors::deserialize(bytes).ok()?.tensors();
    let hash = |(name, view): (String, TensorView<'_>)| (name, blake3::hash(view.data()).to_string());
    Some(tensors.into_par_iter().map(hash).collect())
}

/// A safetensors file that has been read.
pub struct TensorFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl<'a> TensorFile<'a> {
    /// Reads the header. `path` is for messages.
    pub fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<TensorFile<'a>> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| damaged(path, &format!("not a safetensors file: {error}")))?;
        Ok(TensorFile { path, tensors })
    }

    /// The names of all tensors, in no particular order.
    pub fn names(&self) -> Vec<&str> {
        self.tensors.names()
    }

    /// The values of a tensor under one of `names`, which must have this shape and be finite.
    pub fn read(&self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>> {
        let Some((name, view)) = names.iter().find_map(|n| Some((*n, self.tensors.tensor(n).ok()?))) else {
            return Err(self.error(format!("has no tensor {}", names[0])));
        };
        if view.shape() != shape {
            return Err(self.error(format!(
                "holds {name} in the shape {:?}, and the model's configuration asks for {shape:?}",
                view.shape()
            )));
        }
        let values = self.values(name, &view)?;
        match values.iter().position(|x| !x.is_finite()) {
            Some(index) => Err(self.error(format!("holds {} in {name}, element {index}", values[index]))),
            None => Ok(values),
        }
    }

    fn values(&self, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
        let data = view.data();
        Ok(match view.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                return Err(self.error(format!("holds {name} as {other:?}, and hlx reads F32, F16 and BF16")));
            }
        })
    }

    /// An error about this file.
    pub fn error(&self, what: String) -> Error {
        Error::Input(format!("{} {}", self.path.display(), one_line(&what)))
    }
}
