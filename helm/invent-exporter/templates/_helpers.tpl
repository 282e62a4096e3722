{{- define "invent-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is put behind it, and without the dots that a release may have in its name:
a Service may not. */}}
{{- define "invent-exporter.fullname" -}}
{{- $name := include "invent-exporter.name" . -}}
{{- $fullname := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $fullname = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $fullname = .Release.Name -}}
{{- end -}}
{{- $fullname | replace "." "-" | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* What selectors use. Immutable in a Deployment: nothing here may depend on a value but names. */}}
{{- define "invent-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "invent-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of an object. Takes the root, or the root and further labels; the chart's own win, then the
further ones, then commonLabels: written one below the other, a key could stand there twice. */}}
{{- define "invent-exporter.labels" -}}
{{- $root := . -}}
{{- $further := dict -}}
{{- if kindIs "slice" . -}}
{{- $root = index . 0 -}}
{{- $further = default dict (index . 1) -}}
{{- end -}}
{{- $own := dict
  "app.kubernetes.io/name" (include "invent-exporter.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
-}}
{{- toYaml (merge $own $further (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{- define "invent-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "invent-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "invent-exporter.image" -}}
{{- $image := .Values.image -}}
{{- $name := printf "%s/%s" $image.registry $image.repository | trimPrefix "/" -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "invent-exporter.keySecretName" -}}
{{- if .Values.keys.create -}}
{{- printf "%s-keys" (include "invent-exporter.fullname" .) -}}
{{- else -}}
{{- .Values.keys.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The configuration file: what the values say, and where the chart put the key and the state. */}}
{{- define "invent-exporter.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.keys.entry -}}
{{- $api := default dict $config.api -}}
{{- $_ := set $api "key_file" (printf "/run/secrets/invent/%s" .Values.keys.entry) -}}
{{- $_ := set $config "api" $api -}}
{{- end -}}
{{- $_ := set $config "state" (dict "url" "sqlite:////data/invent-exporter.db") -}}
{{- toYaml $config -}}
{{- end -}}

{{/* A duration such as 500ms, 30s, 15m, 24h or 7d in milliseconds. */}}
{{- define "invent-exporter.milliseconds" -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $factors := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- mul (trimSuffix $unit . | int64) (get $factors $unit) -}}
{{- end -}}

{{/* In the repository they are symbolic links to grafana/, which some tools drop: an empty
PrometheusRule would pass for one that watches. Takes what is missing and the value that wants it. */}}
{{- define "invent-exporter.failMissing" -}}
{{- fail (printf "%s: this copy of the chart has no %s, which in the repository is a symbolic link into grafana/: use the packaged chart or a clone with symbolic links" (index . 1) (index . 0)) -}}
{{- end -}}

{{/* A rule file of grafana/, with the thresholds put in. Takes the root and the path. */}}
{{- define "invent-exporter.ruleFile" -}}
{{- $root := index . 0 -}}
{{- $text := $root.Files.Get (index . 1) -}}
{{- $usual := $root.Files.Get "thresholds.yaml" | fromYaml -}}
{{- if not $usual.exporter_job -}}
{{- include "invent-exporter.failMissing" (list "thresholds.yaml" "prometheusRule.enabled") -}}
{{- end -}}
{{/* The ServiceMonitor makes the name the job, by which the alerts know the exporter. Below a parent
chart that gives an alias, it is the alias. */}}
{{- $name := include "invent-exporter.name" $root -}}
{{- if ne $name "invent-exporter" -}}
{{- $_ := set $usual "exporter_job" $name -}}
{{- end -}}
{{- $thresholds := merge (deepCopy (default dict $root.Values.prometheusRule.thresholds)) $usual -}}
{{- range $name, $value := $thresholds -}}
{{/* toJson, because toString writes 1209600 as 1.2096e+06. */}}
{{- $text = $text | replace (printf "@%s@" $name) (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* Not empty when the environment may hold a key: what extraEnvFrom holds is not known here. */}}
{{- define "invent-exporter.hasKeyVariable" -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "INVENT_API_KEY" "INVENT_API_KEY_FILE") -}}true{{- end -}}
{{- end -}}
{{- if .Values.extraEnvFrom -}}true{{- end -}}
{{- end -}}

{{/* Refuses what the schema cannot see, with what to do instead. */}}
{{- define "invent-exporter.validate" -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- fail (printf "replicas: %d: the state is one SQLite file, which one process owns. Use replicas: 1; a restart loses no run, and counters go on where they were" (int .Values.replicas)) -}}
{{- end -}}
{{- if not (or .Values.keys.create .Values.keys.existingSecret) -}}
{{- fail "keys: no API key: set keys.existingSecret to the name of a Secret, or keys.create" -}}
{{- end -}}
{{- if and .Values.keys.create .Values.keys.entry (not (hasKey .Values.keys.create .Values.keys.entry)) -}}
{{- fail (printf "keys.create has no entry %q, which keys.entry names" .Values.keys.entry) -}}
{{- end -}}
{{- $hasOwnFile := false -}}
{{- range .Values.extraArgs -}}
{{- if hasPrefix "--web.listen-address" . -}}
{{- fail (printf "extraArgs: %s: the chart gives the exporter its address; expected port" .) -}}
{{- end -}}
{{- if hasPrefix "--config.file" . -}}
{{- $hasOwnFile = true -}}
{{- end -}}
{{- end -}}
{{- range $org := default (list (dict "id" "c")) .Values.config.orgs -}}
{{- if $org.sub_orgs -}}
{{- fail (printf "config.orgs, %s: sub_orgs: true is not supported yet: expected false, and each sub-org as an entry of config.orgs" $org.id) -}}
{{- end -}}
{{- if not (or $.Values.keys.entry $org.key_file $hasOwnFile (include "invent-exporter.hasKeyVariable" $)) -}}
{{- fail (printf "config.orgs, %s: no API key: expected keys.entry to name an entry of the Secret, a key_file of the org, or INVENT_API_KEY_FILE or INVENT_API_KEY in extraEnv" $org.id) -}}
{{- end -}}
{{- end -}}
{{- if has .Values.telemetryPath (list "/-/healthy" "/-/ready" "/-/reload") -}}
{{- fail (printf "telemetryPath: %s is taken: expected another path such as /metrics" .Values.telemetryPath) -}}
{{- end -}}
{{- if .Values.serviceMonitor.enabled -}}
{{- $hold := default "65s" (default dict .Values.config.metrics).newborn_hold -}}
{{- $interval := .Values.serviceMonitor.interval -}}
{{- $timeout := .Values.serviceMonitor.scrapeTimeout -}}
{{- if gt (include "invent-exporter.milliseconds" $interval | int64) (include "invent-exporter.milliseconds" $hold | int64) -}}
{{- fail (printf "serviceMonitor.interval: %s is longer than config.metrics.newborn_hold (%s), so the first run of a new workflow could be missed: scrape more often, or hold longer" $interval $hold) -}}
{{- end -}}
{{- if gt (include "invent-exporter.milliseconds" $timeout | int64) (include "invent-exporter.milliseconds" $interval | int64) -}}
{{- fail (printf "serviceMonitor.scrapeTimeout: %s is longer than serviceMonitor.interval (%s): the operator would leave the ServiceMonitor out" $timeout $interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}
