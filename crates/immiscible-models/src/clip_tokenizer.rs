use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{self, Lowercase, NFC, Replace, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use crate::{ModelError, weights};

/// The tokenizer of CLIP (Radford et al. 2021, <https://arxiv.org/abs/2103.00020>, §2.4): byte pair encoding of lower-case
/// text, as the class `CLIPTokenizer` of the Python package `transformers`.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    max_length: Option<usize>,
    /// The files it was read from, by name.
    files: Vec<(&'static str, String)>,
}

const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const WHOLE: &str = "tokenizer.json";
const SETTINGS: &str = "tokenizer_config.json";
const NAMED: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// Every file that a folder may have.
const FILES: [&str; 6] = [VOCABULARY, MERGES, WHOLE, SETTINGS, NAMED, ADDED];

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// What a text is cut into before the pairs are merged: special tokens, ends of English contractions, words, single
/// digits, and runs of anything else but space.
const PIECES: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Ids lie below, as in every table of embeddings there is.
const LARGEST: u32 = 1 << 24;

impl ClipTokenizer {
    /// Reads the folder of a tokenizer: the vocabulary from `tokenizer.json` or from `vocab.json` and `merges.txt`, and, where
    /// they are there, `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
    ///
    /// # Errors
    /// [`ModelError::File`] with the file that is missing or holds something else.
    pub fn from_pretrained(folder: &Path) -> Result<Self, ModelError> {
        let mut settings: Settings = json(folder, SETTINGS)?.unwrap_or_default();
        settings.check().map_err(|reason| error(folder.join(SETTINGS), reason))?;
        let whole: Option<Whole> = json(folder, WHOLE)?;

        let mut added: BTreeMap<u32, AddedToken> = BTreeMap::new();
        if let Some(tokens) = settings.added_tokens_decoder.take() {
            added.extend(tokens.into_iter().map(|(id, token)| (id, token.build(false))));
        } else {
            settings.named.replace_by(json(folder, NAMED)?.unwrap_or_default());
            let names: HashMap<String, u32> = json(folder, ADDED)?.unwrap_or_default();
            added.extend(names.into_iter().map(|(content, id)| {
                let special = settings.named.names(&content);
                (id, AddedToken::from(content, special))
            }));
            let tokens = whole.iter().flat_map(|whole| &whole.added_tokens);
            added.extend(tokens.map(|token| (token.id, token.token.clone().build(false))));
        }

        let source = folder.join(if whole.is_some() { WHOLE } else { VOCABULARY });
        let (vocabulary, merges) = match whole {
            Some(Whole { model, .. }) => {
                let merges = model.merges.iter().map(Merge::pair).collect::<Result<_, _>>();
                (model.vocab, merges.map_err(|reason| error(source.clone(), reason))?)
            }
            None => (required(folder, VOCABULARY)?, read_merges(&folder.join(MERGES))?),
        };
        let paths = FILES.iter().map(|&name| (name, folder.join(name))).filter(|(_, path)| path.exists());
        let files = paths.map(|(name, path)| match std::fs::read_to_string(&path) {
            Ok(text) => Ok((name, text)),
            Err(reason) => Err(error(&path, reason)),
        });
        let files = files.collect::<Result<_, _>>()?;
        let tokenizer = Self::build(vocabulary, merges, added.into_values(), &settings)
            .map_err(|reason| error(source, reason))?;
        Ok(Self { files, ..tokenizer })
    }

    /// Writes the files that the tokenizer was read from into a folder, which is created if it is not there.
    ///
    /// # Errors
    /// [`ModelError::File`].
    pub fn save_pretrained(&self, folder: &Path) -> Result<(), ModelError> {
        let error = |path: &Path, reason| weights::file("write the tokenizer", Some(path), reason);
        std::fs::create_dir_all(folder).map_err(|reason| error(folder, reason))?;
        self.files.iter().try_for_each(|(name, text)| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|reason| error(&path, reason))
        })
    }

    fn build(
        vocabulary: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        added: impl Iterator<Item = AddedToken>,
        settings: &Settings,
    ) -> tokenizers::Result<Self> {
        if let Some((token, id)) = vocabulary.iter().find(|(_, id)| **id >= LARGEST) {
            return Err(format!("the id {id} of `{token}` is not below {LARGEST}").into());
        }
        let known = |token: &str| vocabulary.contains_key(token);
        if let Some((a, b)) =
            merges.iter().find(|(a, b)| !(known(a) && known(b) && known(&format!("{a}{b}"))))
        {
            return Err(format!("the merge `{a} {b}` has a token that the vocabulary lacks").into());
        }
        let named = &settings.named;
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .unk_token(named.content(&named.unk_token, END).to_owned())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".into())
            .build()?;

        let mut tokenizer = Tokenizer::new(model);
        let space = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
        tokenizer.with_normalizer(Some(normalizers::Sequence::new(vec![
            NFC.into(),
            space.into(),
            Lowercase.into(),
        ])))?;
        let pieces = SplitPattern::Regex(PIECES.into());
        let pieces = Split::new(pieces, SplitDelimiterBehavior::Removed, true)?;
        let bytes = ByteLevel::new(false, true, true);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![pieces.into(), bytes.into()])));

        // The package adds the tokens that have a name last, and only those that were not added already.
        let added: Vec<AddedToken> = added.collect();
        let more: Vec<AddedToken> =
            named.tokens().filter(|token| added.iter().all(|other| other.content != token.content)).collect();
        tokenizer.add_tokens(added.into_iter().chain(more))?;

        let id = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| format!("the vocabulary lacks the token `{token}`"))
        };
        let start = id(named.content(&named.bos_token, START))?;
        let end = id(named.content(&named.eos_token, END))?;
        let pad = id(named.content(&named.pad_token, END))?;
        let max_length = settings.model_max_length.as_u64().and_then(|length| usize::try_from(length).ok());
        Ok(Self { tokenizer, start, end, pad, max_length, files: Vec::new() })
    }

    /// The length that the folder's settings cut texts to: 77 for the encoders of Stable Diffusion.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// One more than the largest id.
    pub fn ids(&self) -> usize {
        let ids = self.tokenizer.get_vocab(true);
        ids.into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The ids of texts, each `length` long: a start token, the text, an end token, and padding. A longer text loses its end.
    ///
    /// # Errors
    /// [`ModelError::Text`] for a length that start and end do not fit into, or for a text with something in it that the
    /// vocabulary has no token for.
    pub fn encode(&self, texts: &[&str], length: usize) -> Result<Vec<Vec<u32>>, ModelError> {
        if length < 2 {
            return Err(ModelError::Text(format!("length = {length} has no room for start and end; use 77")));
        }
        let row = |text: &&str| {
            let encoding = self.tokenizer.encode_fast(*text, false);
            let encoding = encoding.map_err(|reason| ModelError::Text(reason.to_string()))?;
            let mut ids = vec![self.start];
            ids.extend(encoding.get_ids().iter().take(length - 2));
            ids.push(self.end);
            ids.resize(length, self.pad);
            Ok(ids)
        };
        texts.iter().map(row).collect()
    }
}

/// `tokenizer_config.json`, as far as it bears on the ids.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    #[serde(flatten)]
    named: Named,
    added_tokens_decoder: Option<BTreeMap<u32, Token>>,
    /// Beyond every integer type if nobody has set it.
    model_max_length: serde_json::Value,
    tokenizer_class: Option<String>,
    padding_side: Option<String>,
    truncation_side: Option<String>,
    split_special_tokens: Option<bool>,
}

impl Settings {
    fn check(&self) -> Result<(), String> {
        let only = |field: &str, value: &Option<String>, supported: &[&str]| match value {
            Some(value) if !supported.contains(&value.as_str()) => {
                Err(format!("`{field}` = \"{value}\" is not supported; \"{}\" is", supported[0]))
            }
            _ => Ok(()),
        };
        only("tokenizer_class", &self.tokenizer_class, &["CLIPTokenizer", "CLIPTokenizerFast"])?;
        only("padding_side", &self.padding_side, &["right"])?;
        only("truncation_side", &self.truncation_side, &["right"])?;
        match self.split_special_tokens {
            Some(true) => Err("`split_special_tokens` = true is not supported; false is".into()),
            _ => Ok(()),
        }
    }
}

/// The tokens that have a part to play; `special_tokens_map.json` holds nothing else.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    sep_token: Option<Token>,
    pad_token: Option<Token>,
    cls_token: Option<Token>,
    mask_token: Option<Token>,
}

impl Named {
    fn content<'a>(&self, token: &'a Option<Token>, default: &'a str) -> &'a str {
        token.as_ref().map_or(default, Token::content)
    }

    fn names(&self, content: &str) -> bool {
        self.tokens().any(|token| token.content == content)
    }

    /// In the order in which the package adds them: of two with the same content the later one stays.
    fn tokens(&self) -> impl Iterator<Item = AddedToken> {
        let token = |token: &Option<Token>, default: Option<&str>| {
            let default = default.map(|content| Token::Plain(content.into()));
            token.clone().or(default).map(|token| token.build(true))
        };
        let tokens = [
            token(&self.bos_token, Some(START)),
            token(&self.eos_token, Some(END)),
            token(&self.unk_token, Some(END)),
            token(&self.sep_token, None),
            token(&self.pad_token, Some(END)),
            token(&self.cls_token, None),
            token(&self.mask_token, None),
        ];
        tokens.into_iter().flatten()
    }

    fn replace_by(&mut self, other: Self) {
        let pairs = [
            (&mut self.bos_token, other.bos_token),
            (&mut self.eos_token, other.eos_token),
            (&mut self.unk_token, other.unk_token),
            (&mut self.sep_token, other.sep_token),
            (&mut self.pad_token, other.pad_token),
            (&mut self.cls_token, other.cls_token),
            (&mut self.mask_token, other.mask_token),
        ];
        for (own, other) in pairs {
            *own = other.or_else(|| own.take());
        }
    }
}

/// A token as the files hold it.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Full {
        content: String,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        #[serde(default)]
        single_word: bool,
        normalized: Option<bool>,
        special: Option<bool>,
    },
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Self::Plain(content) | Self::Full { content, .. } => content,
        }
    }

    /// `special` where the file does not say.
    fn build(self, otherwise: bool) -> AddedToken {
        match self {
            Self::Plain(content) => AddedToken::from(content, otherwise),
            Self::Full { content, lstrip, rstrip, single_word, normalized, special } => {
                let special = special.unwrap_or(otherwise);
                AddedToken::from(content, special)
                    .lstrip(lstrip)
                    .rstrip(rstrip)
                    .single_word(single_word)
                    .normalized(normalized.unwrap_or(!special))
            }
        }
    }
}

/// `tokenizer.json`, as far as the package takes it over: how text is cleaned and cut is a matter of the class.
#[derive(Deserialize)]
struct Whole {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: Token,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    fn pair(&self) -> Result<(String, String), String> {
        match self {
            Self::Line(line) => pair(line),
            Self::Pair(a, b) => Ok((a.clone(), b.clone())),
        }
    }
}

fn pair(line: &str) -> Result<(String, String), String> {
    match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
        _ => Err(format!("the merge `{line}` is not two tokens with a space between them")),
    }
}

fn read_merges(path: &Path) -> Result<Vec<(String, String)>, ModelError> {
    let text = std::fs::read_to_string(path).map_err(|reason| error(path, reason))?;
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    lines.map(pair).collect::<Result<_, _>>().map_err(|reason| error(path, reason))
}

/// A file of the folder, if it is there.
fn json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, ModelError> {
    if folder.join(name).exists() { required(folder, name).map(Some) } else { Ok(None) }
}

fn required<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<T, ModelError> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).map_err(|reason| error(&path, reason))?;
    serde_json::from_str(&text).map_err(|reason| error(&path, reason))
}

fn error(path: impl Into<PathBuf>, reason: impl Display) -> ModelError {
    weights::file("read the tokenizer", Some(&path.into()), reason)
}
