// Reads DICOM SEGs as OHIF does: of [{"seg": FILE, "sources": [FILE, ...]}, ...] on standard input it prints, for each,
// the pixels that are set by source image, or {"error": ...}. One process for all: it takes seconds to start.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const root = process.env.DIFFERSEG_NODE_MODULES;
const from = createRequire(path.join(root, "..", "package.json"));
const load = (name) => import(pathToFileURL(path.join(root, name)));
const { adaptersSEG } = await load("@cornerstonejs/adapters/dist/esm/index.js");
const core = await load("@cornerstonejs/core/dist/esm/index.js");
const dcmjs = from("dcmjs");

const buffer = (name) => {
  const bytes = readFileSync(name);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
};
const instances = new Map();
const register = (name) => {
  const dicom = dcmjs.data.DicomMessage.readFile(buffer(name));
  const dataset = dcmjs.data.DicomMetaDictionary.naturalizeDataset(dicom.dict);
  const id = `image:${dataset.SOPInstanceUID}`;
  instances.set(id, dataset);
  return id;
};
const get = (kind, id) => {
  const dataset = instances.get(id);
  if (!dataset) return undefined;
  const cosines = dataset.ImageOrientationPatient.map(Number), spacing = dataset.PixelSpacing.map(Number);
  return {
    instance: dataset,
    generalSeriesModule: { seriesInstanceUID: dataset.SeriesInstanceUID, modality: dataset.Modality },
    sopCommonModule: { sopInstanceUID: dataset.SOPInstanceUID, sopClassUID: dataset.SOPClassUID },
    imagePlaneModule: {
      rows: dataset.Rows, columns: dataset.Columns, imageOrientationPatient: cosines, rowCosines: cosines.slice(0, 3),
      columnCosines: cosines.slice(3), imagePositionPatient: dataset.ImagePositionPatient.map(Number), pixelSpacing: spacing,
      rowPixelSpacing: spacing[0], columnPixelSpacing: spacing[1], frameOfReferenceUID: dataset.FrameOfReferenceUID,
    },
    imagePixelModule: { bitsAllocated: 8, bitsStored: 8, samplesPerPixel: 1, highBit: 7, photometricInterpretation: "MONOCHROME2", pixelRepresentation: 0 },
  }[kind];
};
core.metaData.addProvider(get);

const read = async ({ seg, sources }) => {
  const ids = sources.map(register);
  const found = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(ids, buffer(seg), { metadataProvider: { get } });
  const set = Object.fromEntries(ids.map((id, i) => {
    const pixels = found.labelMapImages[0][i].voxelManager.getScalarData();
    return [id.slice(6), [...pixels.keys()].filter((k) => pixels[k])];
  }));
  const segment = found.segMetadata.data[1], type = segment.SegmentedPropertyTypeCodeSequence;
  return { set, label: segment.SegmentLabel, code: type?.CodeValue ?? type?.[0]?.CodeValue };
};
const answers = [];
for (const job of JSON.parse(readFileSync(0))) answers.push(await read(job).catch((error) => ({ error: String(error) })));
console.log(JSON.stringify(answers));
