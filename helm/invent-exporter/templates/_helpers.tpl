{{- define "invent-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for what is put behind it, and without the dots that a release may have in its name:
a Service may not, nor begin with a digit. A name of the user's own is taken as it is. */}}
{{- define "invent-exporter.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "invent-exporter.name" . -}}
{{- $fullname := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $fullname -}}
{{- $fullname = printf "r-%s" $fullname -}}
{{- end -}}
{{- $fullname | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "invent-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* What selectors use. Immutable in a Deployment: nothing here may depend on a value but names. */}}
{{- define "invent-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "invent-exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
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

{{/* The metadata of an object. Takes root, name, and where they are other than usual namespace, labels
and annotations. toYaml quotes what YAML would take for a number or a switch: a release may be called
123 or true. */}}
{{- define "invent-exporter.metadata" -}}
{{- $metadata := dict
  "name" .name
  "namespace" (default (include "invent-exporter.namespace" .root) .namespace)
  "labels" (include "invent-exporter.labels" (list .root .labels) | fromYaml)
-}}
{{- with merge (dict) (default dict .annotations) (default dict .root.Values.commonAnnotations) -}}
{{- $_ := set $metadata "annotations" . -}}
{{- end -}}
{{- toYaml $metadata -}}
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
{{- $registry := default $image.registry (default dict .Values.global).imageRegistry -}}
{{- $name := printf "%s/%s" (trimSuffix "/" $registry) $image.repository | trimPrefix "/" -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the exporter's pod and the one of `helm test` have in common: who they are, and where and how
they may run. */}}
{{- define "invent-exporter.pod" -}}
{{- $values := .Values -}}
{{- $context := $values.podSecurityContext -}}
{{- if $values.openshift -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{/* Variables of Services are of no use here, and a Service named invent-… would set INVENT_…. */}}
{{- $pod := dict "automountServiceAccountToken" false "enableServiceLinks" false "securityContext" $context -}}
{{- range list "affinity" "dnsConfig" "dnsPolicy" "hostAliases" "nodeSelector" "priorityClassName" "runtimeClassName" "tolerations" -}}
{{- $key := . -}}
{{- with index $values $key -}}
{{- $_ := set $pod $key . -}}
{{- end -}}
{{- end -}}
{{- if kindIs "bool" $values.hostUsers -}}
{{- $_ := set $pod "hostUsers" $values.hostUsers -}}
{{- end -}}
{{- $secrets := list -}}
{{- range concat (default list (default dict $values.global).imagePullSecrets) (default list $values.imagePullSecrets) -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with $secrets | uniq -}}
{{- $_ := set $pod "imagePullSecrets" . -}}
{{- end -}}
{{- toYaml $pod -}}
{{- end -}}

{{/* The Secret with the keys; empty when they come from elsewhere. */}}
{{- define "invent-exporter.keySecretName" -}}
{{- if .Values.keys.create -}}
{{- printf "%s-keys" (include "invent-exporter.fullname" .) -}}
{{- else -}}
{{- .Values.keys.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* The file with the key for `api`, where it is an entry of that Secret. */}}
{{- define "invent-exporter.keyFile" -}}
{{- if and (include "invent-exporter.keySecretName" .) .Values.keys.entry -}}
{{- printf "/run/secrets/invent/%s" .Values.keys.entry -}}
{{- end -}}
{{- end -}}

{{/* Whether there is a pod of `helm test`, which knows neither authorities nor passwords. */}}
{{- define "invent-exporter.hasTest" -}}
{{- if and .Values.helmTest.enabled (not .Values.web.existingSecret) -}}true{{- end -}}
{{- end -}}

{{/* A probe: takes the root, the path and the probe's values. With a web configuration the kubelet has no
login, and the program of the image's health check asks. */}}
{{- define "invent-exporter.probe" -}}
{{- $root := index . 0 -}}
{{- $path := index . 1 -}}
{{- $probe := dict "httpGet" (dict "path" $path "port" "metrics") -}}
{{- if $root.Values.web.existingSecret -}}
{{- $probe = dict "exec" (dict "command" (list "/usr/bin/python" "/app/healthcheck.py" $path)) -}}
{{- end -}}
{{- toYaml (merge $probe (index . 2)) -}}
{{- end -}}

{{/* Where health is told without a login: in the folder for what is temporary. */}}
{{- define "invent-exporter.healthAddress" -}}
unix:///tmp/health.sock
{{- end -}}

{{- define "invent-exporter.stateUrl" -}}
sqlite:////data/invent-exporter.db
{{- end -}}

{{/* The configuration file: what the values say, and where the chart put the key and the state. A URL
of PostgreSQL may hold a password: it comes from its Secret by the environment. */}}
{{- define "invent-exporter.config" -}}
{{- $config := omit (deepCopy .Values.config) "existingConfigMap" -}}
{{- with include "invent-exporter.keyFile" . -}}
{{- $_ := set $config "api" (merge (dict "key_file" .) (default dict $config.api)) -}}
{{- end -}}
{{- if not .Values.state.existingSecret -}}
{{- $_ := set $config "state" (merge (dict "url" (include "invent-exporter.stateUrl" .)) (default dict $config.state)) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Topology spread: what the values say; several replicas are spread without a word. */}}
{{- define "invent-exporter.spread" -}}
{{- $constraints := default list .Values.topologySpreadConstraints -}}
{{- if and (not $constraints) (gt (int .Values.replicas) 1) -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" -}}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" . "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- end -}}
{{- range $constraints }}
- {{ toYaml (mergeOverwrite (dict "labelSelector" (dict "matchLabels" (include "invent-exporter.selectorLabels" $ | fromYaml))) .) | nindent 2 | trim }}
{{- end -}}
{{- end -}}

{{/* What the Prometheus Operator makes the job of the scrapes: a label of the Service (PodMonitor: of
the pod), or without it the object's name. */}}
{{- define "invent-exporter.job" -}}
{{- $further := .Values.podMonitor.enabled | ternary .Values.podLabels .Values.service.labels -}}
{{- $labels := include "invent-exporter.labels" (list . $further) | fromYaml -}}
{{- $fullname := include "invent-exporter.fullname" . -}}
{{- $without := .Values.podMonitor.enabled | ternary (printf "%s/%s" (include "invent-exporter.monitorNamespace" .) $fullname) $fullname -}}
{{- default $without (get $labels .Values.serviceMonitor.jobLabel) -}}
{{- end -}}

{{- define "invent-exporter.monitorNamespace" -}}
{{- default (include "invent-exporter.namespace" .) .Values.serviceMonitor.namespace -}}
{{- end -}}

{{/* What ServiceMonitor and PodMonitor have in common in their spec. */}}
{{- define "invent-exporter.monitorSpec" -}}
{{- $monitor := .Values.serviceMonitor -}}
{{- $spec := dict
  "jobLabel" $monitor.jobLabel
  "namespaceSelector" (dict "matchNames" (list (include "invent-exporter.namespace" .)))
  "selector" (dict "matchLabels" (include "invent-exporter.selectorLabels" . | fromYaml))
-}}
{{- with $monitor.scrapeClass -}}
{{- $_ := set $spec "scrapeClass" . -}}
{{- end -}}
{{- toYaml (merge $spec (default dict $monitor.limits)) -}}
{{- end -}}

{{/* How to scrape, without the port, which each kind names in its own way. */}}
{{- define "invent-exporter.endpoint" -}}
{{- $monitor := .Values.serviceMonitor -}}
{{- $ledger := "invent_(?:runs?|credits?|step_credits|workflows?|org)_.+" -}}
{{- $usual := printf "%s/%s" (include "invent-exporter.namespace" .) (include "invent-exporter.fullname" .) -}}
path: {{ .Values.telemetryPath | quote }}
interval: {{ $monitor.interval | quote }}
scrapeTimeout: {{ $monitor.scrapeTimeout | quote }}
{{- range list "scheme" "tlsConfig" "basicAuth" "relabelings" }}
{{- $key := . }}
{{- with index $monitor $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
metricRelabelings:
  # What the ledger counts belongs to the release, not to the pod that happens to serve it:
  # these series go on when the pod is replaced. Those of the process keep pod and address.
  - sourceLabels: [__name__]
    regex: {{ $ledger }}
    targetLabel: instance
    replacement: {{ default $usual $monitor.instance | quote }}
  # Without `replacement` it is $1, which is empty here: no capturing group. An empty value
  # removes the label; written as "" it would get lost in older operators.
  - sourceLabels: [__name__]
    regex: {{ $ledger }}
    targetLabel: pod
  {{- with $monitor.metricRelabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
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
{{/* The alerts know the exporter by its job, which is another below a parent chart with an alias. */}}
{{- $job := include "invent-exporter.job" $root -}}
{{- if ne $job "invent-exporter" -}}
{{- $_ := set $usual "exporter_job" $job -}}
{{- end -}}
{{- $thresholds := merge (deepCopy (default dict $root.Values.prometheusRule.thresholds)) $usual -}}
{{- range $name, $value := $thresholds -}}
{{/* toJson, because toString writes 1209600 as 1.2096e+06. */}}
{{- $text = $text | replace (printf "@%s@" $name) (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* Whether this release is the one that makes what several share: takes the root and `onlyRelease`. */}}
{{- define "invent-exporter.isMaker" -}}
{{- $root := index . 0 -}}
{{- $only := index . 1 -}}
{{- if or (not $only) (eq $only (printf "%s/%s" $root.Release.Namespace $root.Release.Name)) -}}true{{- end -}}
{{- end -}}
