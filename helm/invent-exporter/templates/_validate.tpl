{{/* Refuses what the schema cannot see, with what to do instead. */}}
{{- define "invent-exporter.validate" -}}
{{- include "invent-exporter.validateKeys" . -}}
{{- include "invent-exporter.validateArguments" . -}}
{{- include "invent-exporter.validateMonitor" . -}}
{{- include "invent-exporter.validateClaim" . -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.state.existingSecret) -}}
{{- fail (printf "replicas: %d: the state is one SQLite file, which one process owns: expected replicas: 1, or state.existingSecret with the URL of a PostgreSQL database that the replicas share" (int .Values.replicas)) -}}
{{- end -}}
{{- if and (default dict .Values.config.state).lease (not .Values.state.existingSecret) -}}
{{- fail "config.state.lease has no effect without state.existingSecret: only PostgreSQL has leases" -}}
{{- end -}}
{{- if has .Values.telemetryPath (list "/-/healthy" "/-/ready" "/-/reload") -}}
{{- fail (printf "telemetryPath: %s is taken: expected another path such as /metrics" .Values.telemetryPath) -}}
{{- end -}}
{{- if and .Values.web.tlsSecret (not .Values.web.existingSecret) -}}
{{- fail (printf "web.tlsSecret: %s has no effect without web.existingSecret: expected a Secret whose file names tls.crt and tls.key" .Values.web.tlsSecret) -}}
{{- end -}}
{{- $others := keys (omit .Values.config "existingConfigMap") | sortAlpha -}}
{{- if and .Values.config.existingConfigMap $others -}}
{{- fail (printf "config.existingConfigMap: %s has no effect beside it: expected all of it in the ConfigMap %s" (join ", " $others) .Values.config.existingConfigMap) -}}
{{- end -}}
{{- $service := .Values.service -}}
{{- if and $service.nodePort (eq $service.type "ClusterIP") -}}
{{- fail "service.nodePort: a ClusterIP has none: expected service.type NodePort or LoadBalancer" -}}
{{- end -}}
{{- if and $service.loadBalancerClass (ne $service.type "LoadBalancer") -}}
{{- fail (printf "service.loadBalancerClass: %s has none: expected service.type LoadBalancer" $service.type) -}}
{{- end -}}
{{- end -}}

{{/* Whether the environment may hold a key: what extraEnvFrom holds is not known here. */}}
{{- define "invent-exporter.hasKeyVariable" -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "INVENT_API_KEY" "INVENT_API_KEY_FILE") -}}true{{- end -}}
{{- end -}}
{{- if .Values.extraEnvFrom -}}true{{- end -}}
{{- end -}}

{{/* A configuration that the chart does not write brings its own keys. */}}
{{- define "invent-exporter.hasOwnFile" -}}
{{- if .Values.config.existingConfigMap -}}true{{- end -}}
{{- range .Values.extraArgs -}}
{{- if hasPrefix "--config.file" . -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "invent-exporter.validateKeys" -}}
{{- $keys := .Values.keys -}}
{{- $file := include "invent-exporter.keyFile" . -}}
{{- $api := default dict .Values.config.api -}}
{{- if and $keys.create $keys.entry (not (hasKey $keys.create $keys.entry)) -}}
{{- fail (printf "keys.create has no entry %q, which keys.entry names" $keys.entry) -}}
{{- end -}}
{{- if and $file $api.key_file -}}
{{- fail (printf "config.api.key_file: keys.entry names the key as well: expected keys.existingSecret: \"\" when no Secret is to be mounted, or keys.entry: \"\" when only orgs use its entries") -}}
{{- end -}}
{{- range $org := default (list (dict "id" "c")) .Values.config.orgs -}}
{{- if not (or $file $api.key_file $org.key_file (include "invent-exporter.hasOwnFile" $) (include "invent-exporter.hasKeyVariable" $)) -}}
{{- fail (printf "config.orgs, %s: no API key: expected keys.existingSecret or keys.create with keys.entry, config.api.key_file, a key_file of the org, or INVENT_API_KEY_FILE or INVENT_API_KEY in extraEnv" $org.id) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "invent-exporter.validateArguments" -}}
{{- $expected := dict
  "--web.listen-address" "the chart gives the exporter its address; expected port"
  "--web.telemetry-path" "Service and monitors have to know it; expected telemetryPath"
  "--web.config.file" "the probes have to know it; expected web.existingSecret"
  "--web.health-address" "the chart sets it where it is needed; expected web.existingSecret"
  "--web.enable-lifecycle" "it is a value; expected web.enableLifecycle"
-}}
{{- range $argument := .Values.extraArgs -}}
{{- range $flag, $why := $expected -}}
{{- if hasPrefix $flag $argument -}}
{{- fail (printf "extraArgs: %s: %s" $argument $why) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $config := .Values.config -}}
{{- range .Values.extraEnv -}}
{{- if eq .name "INVENT_STATE_URL" -}}
{{- fail "extraEnv: INVENT_STATE_URL would move the state to where the chart does not know it: expected persistence or state.existingSecret" -}}
{{- else if and (eq .name "INVENT_API_URL") (default dict $config.api).url -}}
{{- fail "extraEnv: INVENT_API_URL wins over config.api.url: expected one of the two" -}}
{{- else if and (eq .name "INVENT_ORG_ID") $config.orgs -}}
{{- fail "extraEnv: INVENT_ORG_ID has no effect beside config.orgs: expected one of the two" -}}
{{- else if and (has .name (list "INVENT_API_KEY" "INVENT_API_KEY_FILE")) (include "invent-exporter.keyFile" $) -}}
{{- fail (printf "extraEnv: %s wins over keys.entry: expected keys.existingSecret: \"\" when no Secret is to be mounted, or keys.entry: \"\" when only orgs use its entries" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "invent-exporter.validateMonitor" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "podMonitor.enabled: serviceMonitor.enabled is true as well, so all would be scraped twice: expected one of the two" -}}
{{- end -}}
{{- if or .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- $scheme := default "" .Values.serviceMonitor.scheme -}}
{{- if and .Values.serviceMonitor.tlsConfig (ne $scheme "https") -}}
{{- fail "serviceMonitor.tlsConfig has no effect with http: expected serviceMonitor.scheme: https" -}}
{{- end -}}
{{- $web := .Values.web -}}
{{/* Behind a proxy's port there is what the proxy makes of it. */}}
{{- if eq .Values.service.targetPort "metrics" -}}
{{- if and $web.tlsSecret (ne $scheme "https") -}}
{{- fail (printf "serviceMonitor.scheme: %q: with web.tlsSecret the exporter speaks TLS: expected https" $scheme) -}}
{{- else if and $web.existingSecret (not $scheme) -}}
{{- fail "serviceMonitor.scheme: web.existingSecret may ask for TLS, which the chart can't see: expected https, or http when it has only users" -}}
{{- end -}}
{{- end -}}
{{- $hold := default "65s" (default dict .Values.config.metrics).newborn_hold -}}
{{- $interval := .Values.serviceMonitor.interval -}}
{{- $timeout := .Values.serviceMonitor.scrapeTimeout -}}
{{- if gt (include "invent-exporter.milliseconds" $interval | int64) (include "invent-exporter.milliseconds" $hold | int64) -}}
{{- fail (printf "serviceMonitor.interval: %s is longer than config.metrics.newborn_hold (%s), so the first run of a new workflow could be missed: scrape more often, or hold longer" $interval $hold) -}}
{{- end -}}
{{- if gt (include "invent-exporter.milliseconds" $timeout | int64) (include "invent-exporter.milliseconds" $interval | int64) -}}
{{- fail (printf "serviceMonitor.scrapeTimeout: %s is longer than serviceMonitor.interval (%s): the operator would leave the monitor out" $timeout $interval) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A claim is found by its name: an upgrade with other names would leave it behind, with the counters
in it. Seen only where Helm asks the cluster, so not by `helm template`. */}}
{{- define "invent-exporter.validateClaim" -}}
{{- $persistence := .Values.persistence -}}
{{- if and $persistence.existingClaim (not $persistence.enabled) -}}
{{- fail "persistence.existingClaim has no effect with persistence.enabled: false: expected true" -}}
{{- end -}}
{{- if and $persistence.existingClaim .Values.state.existingSecret -}}
{{- fail "persistence.existingClaim has no effect with state.existingSecret, whose database holds the ledger: expected one of the two" -}}
{{- end -}}
{{- $name := include "invent-exporter.fullname" . -}}
{{- $namespace := include "invent-exporter.namespace" . -}}
{{- if and .Release.IsUpgrade $persistence.enabled (not $persistence.existingClaim) (not .Values.state.existingSecret) (not (lookup "v1" "PersistentVolumeClaim" $namespace $name)) -}}
{{- range list $namespace .Release.Namespace | uniq -}}
{{- range (lookup "v1" "PersistentVolumeClaim" . "").items -}}
{{- $labels := default dict .metadata.labels -}}
{{- if and (eq (get $labels "app.kubernetes.io/instance") $.Release.Name) (regexMatch (printf "^%s-[0-9]" $.Chart.Name) (get $labels "helm.sh/chart")) (not .metadata.deletionTimestamp) -}}
{{- fail (printf "nameOverride, fullnameOverride or namespaceOverride: the counters of this release are in the claim %s of namespace %s; with the new names it would start at 0 on a new claim %s: expected the old names, or persistence.existingClaim: %s, or that claim deleted" .metadata.name .metadata.namespace $name .metadata.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
