//! Carrying tenants from one service to another: one by a file, or all of an embedded service's
//! data directory at once.
//!
//! A file is there when it is whole: it is written under another name first. What an import has
//! begun nobody can see until it is whole, so that either may be repeated after whatever happened.

pub mod file;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use application::Application;
use application::archive::{Archive, ImportError, Imported, Piece, Pieces};
use application::catalogue::Transferred;
use application::error::Error;
use application::tenants::Tenant;
use futures::{StreamExt, TryStreamExt, stream};

use self::file::{Broken, Reader, Writer};
use crate::maintenance::{self, Teller, for_each, oldest_first, progress};

/// How many bytes are read or written at a time.
const BUFFER_BYTES: usize = 1024 * 1024;
/// May be read and written by its owner only: it tells who holds which card.
const MODE: u32 = 0o600;

/// Why a tenant was not carried.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is no such tenant.
    #[error("there is no tenant with the id or slug {0:?}")]
    UnknownTenant(String),
    /// The file cannot be used.
    #[error("{}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is not one that a service keeps its data in.
    #[error("{}: not the data directory of an embedded service", .0.display())]
    NoDataDirectory(PathBuf),
    /// A file was not imported.
    #[error("{}", .path.display())]
    Import {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ImportError<Broken>,
    },
    /// Some of a directory's tenants were not imported.
    #[error(transparent)]
    Tenants(#[from] maintenance::Failed),
    /// What was asked of a service failed.
    #[error(transparent)]
    Service(#[from] Error),
}

/// Writes a tenant, named by its id or slug, to a file; `-` is standard output.
///
/// # Errors
///
/// [`Failed`]; a file that was there before is left as it is then.
pub async fn export(
    application: &Application,
    tenant: &str,
    path: &Path,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    let tenant = find(application, tenant)?;
    let (archive, pieces) = application.export_tenant(tenant.id).await?;
    if path.as_os_str() == "-" {
        let out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
        write(out, path, &archive, pieces, teller).await?;
        teller.note(&summary("exported", &archive));
        return Ok(());
    }
    let partial = beside(path);
    let written = write_whole(&partial, path, &archive, pieces, teller).await;
    if written.is_err() {
        // What went wrong in the writing says more than what goes wrong in the removing.
        let _ = fs::remove_file(&partial);
    }
    written?;
    teller.done(&summary("exported", &archive));
    Ok(())
}

/// Imports the tenant that a file holds; `-` is standard input.
///
/// # Errors
///
/// [`Failed`]; nothing was imported then.
pub async fn import(
    application: &Application,
    path: &Path,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(of_file(path))?),
    };
    let source = BufReader::with_capacity(BUFFER_BYTES, source);
    let (archive, imported) = import_from(application, source, teller)
        .await
        .map_err(|source| Failed::Import {
            path: path.to_owned(),
            source,
        })?;
    teller.done(&summary(said(imported), &archive));
    Ok(())
}

async fn import_from(
    application: &Application,
    source: impl BufRead,
    teller: &dyn Teller,
) -> Result<(Archive, Imported), ImportError<Broken>> {
    let (archive, pieces) = Reader::begin(source).map_err(ImportError::Source)?;
    let progress = progress(teller, format!("tenant {}", archive.tenant.id));
    let imported = application
        .import_tenant(&archive, stream::iter(pieces), &progress)
        .await?;
    Ok((archive, imported))
}

/// Imports every tenant of another service, which is stopped, its catalogue, and the keys of its
/// staff.
///
/// # Errors
///
/// [`Failed::Tenants`] if some failed: each was told with its id when it happened, and the rest
/// was done.
pub async fn import_all(
    source: &Application,
    application: &Application,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    let staff = source.export_staff().await.map_err(Error::from)?;
    application.import_staff(&staff).await?;
    match application.import_catalogue(source).await? {
        Transferred::TakenOver => teller.done("imported: the catalogue"),
        Transferred::AlreadyHere => {}
        Transferred::Kept => teller.note("the catalogue here was changed, and stays as it is"),
    }
    let tenants = oldest_first(source);
    let total = tenants.len();
    for_each(tenants, 1, teller, async |tenant| {
        let (archive, pieces) = source
            .export_tenant(tenant.id)
            .await
            .map_err(ImportError::Source)?;
        let pieces = pieces.map_err(Error::from);
        let progress = progress(teller, format!("tenant {}", tenant.id));
        let imported = application
            .import_tenant(&archive, pieces, &progress)
            .await?;
        teller.done(&summary(said(imported), &archive));
        Ok::<_, ImportError<Error>>(())
    })
    .await?;
    // The landlord's answers come last: one that speaks of a tenant finds it here.
    application.import_answers(source.export_answers()).await?;
    let keys = staff.len();
    teller.done(&format!(
        "all is here: tenants: {total}, keys of the staff: {keys}"
    ));
    Ok(())
}

/// Whether a service keeps its data there.
///
/// # Errors
///
/// [`Failed::NoDataDirectory`]: opening would make one.
pub fn require_data_directory(path: &Path) -> Result<(), Failed> {
    match path.join("landlord.db").is_file() && path.join("tenants").is_dir() {
        true => Ok(()),
        false => Err(Failed::NoDataDirectory(path.to_owned())),
    }
}

/// A tenant by its id or slug.
pub(crate) fn find(application: &Application, name: &str) -> Result<Arc<Tenant>, Failed> {
    let by_id = name
        .parse()
        .ok()
        .and_then(|id| application.directory.get(id));
    let by_slug = || {
        let mut all = application.directory.all().into_iter();
        all.find(|tenant| tenant.slug.as_str() == name)
    };
    by_id
        .or_else(by_slug)
        .ok_or_else(|| Failed::UnknownTenant(name.to_owned()))
}

async fn write<W: Write>(
    out: W,
    path: &Path,
    archive: &Archive,
    mut pieces: Pieces,
    teller: &dyn Teller,
) -> Result<W, Failed> {
    let progress = progress(teller, format!("tenant {}", archive.tenant.id));
    let mut writer = Writer::begin(out, archive).map_err(of_file(path))?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(Error::from)?;
        if let Piece::Event(event) = &piece {
            progress(event.position);
        }
        writer.piece(piece).map_err(of_file(path))?;
    }
    writer.complete().map_err(of_file(path))
}

/// Writes under a name of its own; gives the file its name when it is on disk.
async fn write_whole(
    partial: &Path,
    path: &Path,
    archive: &Archive,
    pieces: Pieces,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(MODE);
    let out = options.open(partial).map_err(of_file(partial))?;
    let out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let out = write(out, path, archive, pieces, teller).await?;
    let out = out.into_inner().map_err(io::IntoInnerError::into_error);
    out.and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(partial, path))
        .and_then(|()| sync_directory_of(path))
        .map_err(of_file(path))
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

const fn said(imported: Imported) -> &'static str {
    match imported {
        Imported::New => "imported",
        Imported::AlreadyHere => "here already",
    }
}

fn summary(what: &str, archive: &Archive) -> String {
    let (tenant, end) = (&archive.tenant, &archive.end);
    format!(
        "{what}: tenant {} ({}), {} events, last hash {}",
        tenant.id,
        tenant.slug.as_str(),
        end.position,
        end.hash
    )
}

fn of_file(path: &Path) -> impl FnOnce(io::Error) -> Failed {
    let path = path.to_owned();
    move |source| Failed::File { path, source }
}
